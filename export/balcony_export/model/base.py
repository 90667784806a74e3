"""The frozen base: loaded once, never trained, run once per batch for every exit."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from balcony_edge.errors import ModelError
from balcony_export.model import architectures
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.lm_head import LMHead

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class BaseStates(NamedTuple):
    """What one pass of the base leaves for the exits."""

    hidden: dict[int, Tensor]
    """Per split k, the hidden states after k layers: fp32 [rows, length, hidden]."""
    final: Tensor
    """The last hidden states behind the base's norm, ready for the head: [rows, length, hidden]."""
    context: dict[str, Any]
    """What the base gave its last layer beside the hidden states: mask, rotations, … An exit's layer is a copy of
    that layer, so it gets the same."""


@dataclass(frozen=True)
class Base:
    """A frozen decoder of any of the families. With bf16 weights the hidden states between the layers stay fp32."""

    model: Any
    device: torch.device
    dtype: torch.dtype
    blueprint: Blueprint

    @property
    def head(self) -> LMHead:
        """The LM head, shared with the exits."""
        return LMHead(self.model.lm_head.weight, self.blueprint.logit_divisor, self.blueprint.logit_softcap)

    def autocast(self) -> torch.autocast:
        """The precision in which base and exits compute."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @torch.no_grad()
    def trace(self, tokens: Tensor, splits: Collection[int]) -> BaseStates:
        """One pass over ``tokens`` [rows, length], each row a causal sequence from position 0.

        The model's own forward runs, so that every family's masks, rotations and multipliers are its own.
        """
        inner = self.model.model
        kept: dict[int, Tensor] = {}
        context: dict[str, Any] = {}

        def keep(depth: int) -> Callable[[Any, Any, Tensor], None]:
            return lambda layer, given, hidden: kept.update({depth: hidden})

        def remember(layer: Any, given: Any, named: dict[str, Any]) -> None:
            context.update(named)

        with ExitStack() as hooks, self.autocast():
            # All that follows takes its precision from the embeddings.
            hooks.enter_context(inner.embed_tokens.register_forward_hook(lambda *call: call[-1].float()))
            hooks.enter_context(inner.layers[-1].register_forward_pre_hook(remember, with_kwargs=True))
            for split in splits:
                hooks.enter_context(inner.layers[split - 1].register_forward_hook(keep(split)))
            final = inner(tokens, use_cache=False).last_hidden_state
        return BaseStates(kept, final, context)

    @torch.no_grad()
    def lens(self, hidden: Tensor) -> Tensor:
        """The untrained exit that others start from: the base's final norm on an inner hidden state."""
        with self.autocast():
            normed: Tensor = self.model.model.norm(hidden)
        return normed


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder. Raises ModelError if there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds
        raise ModelError(
            f"cannot load the tokenizer in {folder}: {_first_line(error)}",
            "give a folder with tokenizer.json and tokenizer_config.json beside the weights",
        ) from error


def boundary_ids(tokenizer: Any, config: dict[str, Any]) -> tuple[int, int | None]:
    """End-of-text id, and the id that starts a document where the model has one of its own."""
    end = tokenizer.eos_token_id
    if end is None:
        named = config.get("eos_token_id")
        end = named[0] if isinstance(named, list) else named
    if end is None:
        raise ModelError(
            "the tokenizer names no end-of-text token, which must stand between documents",
            "add eos_token to tokenizer_config.json",
        )
    start = tokenizer.bos_token_id
    return int(end), None if start is None or start == end else int(start)


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` is the GPU if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"cannot use device {name!r}: {error}", "use --device auto") from error


def load_base(folder: Path, dtype: str = "fp32", device: str = "auto") -> Base:
    """Load a model folder, frozen. Only safetensors weights are read and no code of the folder runs.

    Raises ModelError for a family that ``architectures.read`` refuses, and for weights that are not whole.
    """
    from transformers import AutoModelForCausalLM

    blueprint = architectures.read(folder)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            trust_remote_code=False,
            # None: transformers' fastest for the family. Only eager attention caps scores (Gemma 2).
            attn_implementation="eager" if blueprint.attention_softcap else None,
            output_loading_info=True,
        )
        model, report = loaded
    except Exception as error:  # transformers raises many kinds: no weights, broken weights, no memory
        raise ModelError(
            f"cannot load the model in {folder}: {_first_line(error)}",
            "give a folder with config.json and whole model.safetensors",
        ) from error
    if report["missing_keys"]:
        raise ModelError(f"the weights in {folder} lack {min(report['missing_keys'])}", "download the model again")
    model.requires_grad_(False)
    model.eval()
    where = choose_device(device)
    return Base(model.to(where), where, DTYPES[dtype], blueprint)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
