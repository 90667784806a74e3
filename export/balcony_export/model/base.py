"""The frozen base as training uses it: loaded once, never changed, run once a batch for all exits together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from balcony_edge.errors import ModelError
from balcony_export.model import architectures
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.lm_head import LMHead
from balcony_export.model.transformers_model import load_frozen

# What --dtype may be.
TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class _ReachedError(Exception):
    """Ends a run of the model once its last layer is reached."""


def _passed_on(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
    """In place of a layer: its input, unchanged."""
    return hidden


class BaseStates(NamedTuple):
    """The hidden states of one pass of the base, which are what the exits are trained on."""

    hidden: dict[int, Tensor]
    """For each split k, the hidden states after k layers: fp32 [rows, length, hidden]."""
    final: Tensor
    """The hidden states after the last layer and the final norm, as the head reads them: [rows, length, hidden]."""
    context: dict[str, Any]
    """The other arguments of the base's last layer: mask, rotations, … An exit's layer is a copy of that layer and is
    called with the same arguments."""


@dataclass(frozen=True)
class Base:
    """A frozen decoder of any supported family. With bf16 weights, the hidden states between layers stay fp32."""

    model: Any
    """The transformers model."""
    device: torch.device
    dtype: torch.dtype
    blueprint: Blueprint

    @property
    def head(self) -> LMHead:
        """The LM head, shared with the exits."""
        return LMHead(self.model.lm_head.weight, self.blueprint.logit_divisor, self.blueprint.logit_softcap)

    def autocast(self) -> torch.autocast:
        """The context in which base and exits compute at the base's precision."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @torch.no_grad()
    def run(self, tokens: Tensor, **named: Any) -> Tensor:
        """The final normed hidden states [rows, length, hidden] of ``tokens``, int64 [rows, length].

        ``named``: further arguments of the transformers model, such as ``position_ids``.
        """
        embeddings = self.model.model.embed_tokens
        # The layers compute in the type of their input: fp32 embeddings make all hidden states fp32.
        with embeddings.register_forward_hook(lambda *call: call[-1].float()), self.autocast():
            final: Tensor = self.model.model(tokens, **named).last_hidden_state
        return final

    @torch.no_grad()
    def states(self, tokens: Tensor, splits: Collection[int], positions: Tensor | None = None) -> BaseStates:
        """Run ``tokens``, int64 [rows, length], each row a causal sequence from position 0.

        ``positions``, of the same shape, start at 0 anew where another document begins: documents of a row then do not
        see each other. The model's own forward runs and hooks read the states: so masks, rotations and multipliers are
        the family's.
        """
        inner = self.model.model
        hidden_at: dict[int, Tensor] = {}
        context: dict[str, Any] = {}

        def read_states(depth: int) -> Callable[[Any, Any, Tensor], None]:
            return lambda layer, given, hidden: hidden_at.update({depth: hidden})

        def read_context(layer: Any, given: Any, named: dict[str, Any]) -> None:
            context.update(named)

        with ExitStack() as hooks:
            hooks.enter_context(inner.layers[-1].register_forward_pre_hook(read_context, with_kwargs=True))
            for split in splits:
                hooks.enter_context(inner.layers[split - 1].register_forward_hook(read_states(split)))
            final = self.run(tokens, position_ids=positions, use_cache=False)
        return BaseStates(hidden_at, final, context)

    @torch.no_grad()
    def context(self, tokens: Tensor, positions: Tensor) -> dict[str, Any]:
        """The ``context`` of ``states`` without running the layers, for hidden states that were kept."""
        inner = self.model.model
        context: dict[str, Any] = {}

        def read_context(layer: Any, given: Any, named: dict[str, Any]) -> None:
            context.update(named)
            raise _ReachedError

        with ExitStack() as stack:
            for layer in inner.layers[:-1]:
                stack.enter_context(patch.object(layer, "forward", _passed_on))
            stack.enter_context(inner.layers[-1].register_forward_pre_hook(read_context, with_kwargs=True))
            with suppress(_ReachedError):
                self.run(tokens, position_ids=positions, use_cache=False)
        return context

    @torch.no_grad()
    def lens(self, hidden: Tensor) -> Tensor:
        """The logit lens, an exit without training: the base's final norm on ``hidden`` [rows, length, hidden]."""
        with self.autocast():
            normed: Tensor = self.model.model.norm(hidden)
        return normed


def choose_device(name: str = "auto") -> torch.device:
    """The torch device of a name; ``auto``: the GPU if there is one. Raises ModelError if it cannot be used."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"cannot use device {name!r}: {error}", "use --device auto") from error


def choose_dtype(name: str, device: str = "auto") -> str:
    """``name``, or for "auto" the faster of fp32 and bf16: bf16 where the hardware multiplies it."""
    if name != "auto":
        return name
    if choose_device(device).type != "cpu":
        return "bf16"
    # Older releases cannot tell what the processor has.
    has: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if any(has.get(feature) for feature in ("avx512_bf16", "amx_bf16", "bf16")) else "fp32"


def load_base(folder: Path, dtype: str = "fp32", device: str = "auto") -> Base:
    """Load a model folder, frozen, at ``dtype`` ("fp32" or "bf16") on ``device`` (see ``choose_device``).

    Raises ModelError for a family that ``architectures.read`` refuses, and for weights that are not whole.
    """
    blueprint = architectures.read(folder)
    # Only eager attention caps scores, as Gemma 2 does.
    model = load_frozen(folder, TORCH_DTYPES[dtype], eager=bool(blueprint.attention_softcap))
    where = choose_device(device)
    return Base(model.to(where), where, TORCH_DTYPES[dtype], blueprint)
