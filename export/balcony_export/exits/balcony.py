"""The Balcony: what is trained at a split, and its beginnings (arXiv 2503.05005)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from balcony_edge.errors import ModelError
from balcony_export.exits.store import Exits
from balcony_export.exits.widths import Width
from balcony_export.model.base import Base
from balcony_export.model.blueprint import Blueprint

STARTS = ("last", "next")
NORM_STARTS = ("final", "layer")


class MlpOnly(nn.Module):
    """A decoder layer without its attention; parameters keep their names."""

    def __init__(self, layer: nn.Module, blueprint: Blueprint) -> None:
        super().__init__()
        self._norms = blueprint.norms
        self._scale = blueprint.residual_scale
        for name in filter(None, (self._norms.before_mlp, "mlp", self._norms.after_mlp)):
            self.add_module(name, layer.get_submodule(name))

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        """Hidden states [rows, length, hidden], whatever else the base gives its layers."""
        out = hidden
        for name in filter(None, (self._norms.before_mlp, "mlp", self._norms.after_mlp)):
            out = self.get_submodule(name)(out)
        return hidden + out * self._scale


class NoLayer(nn.Module):
    """Nothing: an exit that is a norm alone."""

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        """The hidden states as they came."""
        return hidden


class Balcony(nn.Module):
    """One decoder layer of the base's own kind and a norm of its own; the base's shared head comes after.

        hidden after k layers ─ decoder layer ─ norm ─ (shared head) ─ logits of exit k

    The layer attends over its own keys and values at the true positions: on a device it has its own KV cache. Of
    another width (see widths.py) the decoder layer lacks its attention, or is not there at all.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.norm = norm

    def forward(self, hidden: Tensor, context: Mapping[str, Any]) -> Tensor:
        """Hidden states [rows, length, hidden] to what the head reads, same shape. ``context``: see Trace."""
        normed: Tensor = self.norm(self.layer(hidden, **context))
        return normed


class Balconies(nn.Module):
    """The exits of one base by split; parameters are named ``{split}.layer.…``, ``{split}.norm.weight``."""

    def __init__(self, balconies: dict[int, Balcony]) -> None:
        super().__init__()
        for split, balcony in balconies.items():
            self.add_module(str(split), balcony)
        self.splits = tuple(balconies)

    def at(self, split: int) -> Balcony:
        """The exit at a split."""
        balcony = self.get_submodule(str(split))
        assert isinstance(balcony, Balcony)
        return balcony

    def some(self, splits: Sequence[int]) -> Balconies:
        """The exits of some of the splits: the same modules."""
        return Balconies({split: self.at(split) for split in splits})

    @torch.no_grad()
    def load(self, trained: Exits) -> None:
        """Become the trained exits of the same splits, all of the same width as these."""
        for split in self.splits:
            balcony = self.at(split)
            # strict=False: a layer may own constants, such as rotations, that are no weights.
            found = {name: torch.from_numpy(value) for name, value in trained.layer(split).items()}
            balcony.layer.load_state_dict(found, strict=False)
            balcony.norm.load_state_dict({"weight": torch.from_numpy(trained.norm(split))})

    def normed(self, hidden: Mapping[int, Tensor], context: Mapping[str, Any]) -> list[Tensor]:
        """Every exit's output before the head, in the order of ``splits``."""
        return [self.at(split)(hidden[split], context) for split in self.splits]


def starting_norm(blueprint: Blueprint, norm_start: str) -> str | None:
    """Which of a base layer's norms an exit's norm starts as; None: the base's final norm.

    Raises ModelError for "layer" where the family's layers have no norm in front (OLMo 2).
    """
    if norm_start == "final":
        return None
    name = blueprint.norms.before_attention
    if name is None:
        raise ModelError(
            f"the layers of {blueprint.arch.family} have no norm in front that an exit could copy",
            "use --norm-start final",
        )
    return name


def narrow(layer: nn.Module, blueprint: Blueprint, width: Width) -> nn.Module:
    """What is left of a decoder layer at a width; the modules are the layer's own."""
    if width == "layer":
        return layer
    return MlpOnly(layer, blueprint) if width == "mlp" else NoLayer()


def build(base: Base, splits: Sequence[int], norm_start: str, width: Width = "layer", start: str = "last") -> Balconies:
    """Untrained exits, in fp32: each layer copies one of the base's, each norm one of the base's norms.

    ``start`` "last" copies the base's last layer, "next" the one that follows the split; either way the exit runs as
    the last one does, with its mask and rotations. ``norm_start`` "final" copies the base's final norm: an exit before
    the last layer then starts out exact, and on a 5-layer base no exit's KL after 150 steps was higher, and one's 10 %
    lower. "layer" copies the input norm of the base layer that the exit replaces, as the paper's code does; see
    ``starting_norm``.
    """
    inner = base.model.model
    name = starting_norm(base.blueprint, norm_start)
    balconies = {}
    for split in splits:
        layer = copy.deepcopy(inner.layers[-1])
        if start == "next":
            layer.load_state_dict(inner.layers[split].state_dict())
        # A cache that is handed to the layer must hold one layer, not the base's last.
        layer.self_attn.layer_idx = 0
        norm = copy.deepcopy(inner.norm if name is None else inner.layers[split].get_submodule(name))
        balconies[split] = Balcony(narrow(layer, base.blueprint, width), norm)
    # eval: a config with dropout would make the distilled function, and a resumed run, random.
    return Balconies(balconies).to(base.device, torch.float32).requires_grad_(True).eval()
