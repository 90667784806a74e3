"""The Balcony, the module that is trained at a split, and what it starts as (arXiv 2503.05005, section 3)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from balcony_edge.errors import ModelError
from balcony_export.exits.store import Exits
from balcony_export.exits.widths import Width, layer_names
from balcony_export.model.base import Base
from balcony_export.model.blueprint import Blueprint

# What an exit's layer and its norm may start as: see ``build``.
STARTS = ("last", "next")
NORM_STARTS = ("final", "layer")


class MlpOnly(nn.Module):
    """A decoder layer without its attention: the layer of an exit of width "mlp". Parameters keep their names."""

    def __init__(self, layer: nn.Module, blueprint: Blueprint) -> None:
        super().__init__()
        self._norms = blueprint.norms
        self._scale = blueprint.residual_scale
        for name in filter(None, (self._norms.before_mlp, "mlp", self._norms.after_mlp)):
            self.add_module(name, layer.get_submodule(name))

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        """The layer's MLP with its norms and its residual, on hidden states [rows, length, hidden]."""
        out = hidden
        for name in filter(None, (self._norms.before_mlp, "mlp", self._norms.after_mlp)):
            out = self.get_submodule(name)(out)
        return hidden + out * self._scale


class NoLayer(nn.Module):
    """The layer of an exit of width "norm": it does nothing."""

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        """The hidden states unchanged."""
        return hidden


class Balcony(nn.Module):
    """One exit: a decoder layer of the base's own kind, or several, and a norm. The base's head, shared, follows it.

        hidden states after k layers ─ decoder layer ─ norm ─ (shared head) ─ logits of exit k

    Each layer's attention has keys and values of its own, at the same positions as the base, so on a device it has its
    own KV cache. A narrower exit (see widths.py) has a layer without attention, or none.
    """

    def __init__(self, layers: Sequence[nn.Module], norm: nn.Module) -> None:
        super().__init__()
        self._names = layer_names(len(layers))
        for name, layer in zip(self._names, layers, strict=True):
            self.add_module(name, layer)
        self.norm = norm

    @property
    def layers(self) -> dict[str, nn.Module]:
        """Its layers by name, the first one first."""
        return {name: self.get_submodule(name) for name in self._names}

    def forward(self, hidden: Tensor, context: Mapping[str, Any]) -> Tensor:
        """What the head reads, of hidden states [rows, length, hidden] and of their shape.

        ``context``: the base layer's other arguments, see BaseStates.
        """
        for layer in self.layers.values():
            hidden = layer(hidden, **context)
        normed: Tensor = self.norm(hidden)
        return normed


class Balconies(nn.Module):
    """All exits of a base, by split. Parameters are named ``{split}.layer.…`` and ``{split}.norm.weight``."""

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
        """The exits at some of the splits; the modules are shared, not copied."""
        return Balconies({split: self.at(split) for split in splits})

    @torch.no_grad()
    def load(self, trained: Exits) -> None:
        """Take the weights of trained exits, which must have these splits, at the same width and number of layers."""
        for split in self.splits:
            balcony = self.at(split)
            for name, layer in balcony.layers.items():
                weights = {part: torch.from_numpy(value) for part, value in trained.layer(split, name).items()}
                # strict=False: a layer may also hold constants, such as rotations, that are no weights.
                layer.load_state_dict(weights, strict=False)
            balcony.norm.load_state_dict({"weight": torch.from_numpy(trained.norm(split))})

    def normed(self, hidden: Mapping[int, Tensor], context: Mapping[str, Any]) -> list[Tensor]:
        """What every exit hands to the head, [rows, length, hidden] each, in the order of ``splits``.

        ``hidden`` and ``context`` are those of BaseStates.
        """
        return [self.at(split)(hidden[split], context) for split in self.splits]


def of_trained(base: Base, trained: Exits) -> Balconies:
    """Trained exits as modules on the base's device."""
    balconies = build(base, trained.splits, "final", trained.width, layers=len(trained.layers))
    balconies.load(trained)
    return balconies


def starting_norm(blueprint: Blueprint, norm_start: str) -> str | None:
    """The name of the base layer's norm that an exit's norm starts as; None: the base's final norm.

    Raises ModelError for ``norm_start`` "layer" if the family's layers have no norm in front of attention (OLMo 2).
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
    """A decoder layer cut down to a width. Its modules are used, not copied."""
    if width == "layer":
        return layer
    return MlpOnly(layer, blueprint) if width == "mlp" else NoLayer()


def build(
    base: Base, splits: Sequence[int], norm_start: str, width: Width = "layer", start: str = "last", layers: int = 1
) -> Balconies:
    """Untrained exits in fp32. Each layer is a copy of one of the base's, each norm a copy of one of its norms.

    ``start`` picks the layers: "last" are the base's last ones, "next" those after the split. Either way the exit runs
    with the mask and rotations of the last layer.

    ``norm_start`` picks the norm. "final" is the base's final norm: then an exit right before the last layer starts out
    exact. On a base of 5 layers, after 150 steps, one exit's KL was 10 % lower for it and no exit's was higher.
    "layer" is the input norm of the layer after the split, as in the paper's code; see ``starting_norm``.
    """
    inner = base.model.model
    name = starting_norm(base.blueprint, norm_start)
    balconies = {}
    for split in splits:
        first = min(split, len(inner.layers) - layers) if start == "next" else len(inner.layers) - layers
        copies = [copy.deepcopy(inner.layers[-1]) for _ in range(layers)]
        for index, layer in enumerate(copies):
            layer.load_state_dict(inner.layers[first + index].state_dict())
            # The layer's place in a cache: an exit's cache holds its own layers alone.
            layer.self_attn.layer_idx = index
        norm = copy.deepcopy(inner.norm if name is None else inner.layers[split].get_submodule(name))
        balconies[split] = Balcony([narrow(layer, base.blueprint, width) for layer in copies], norm)
    # eval() even for training: dropout, if the config has any, would make training and resuming random.
    return Balconies(balconies).to(base.device, torch.float32).requires_grad_(True).eval()
