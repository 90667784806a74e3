"""Rotary positions as tables, for every kind of scaling in transformers that a table can hold exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from balcony_edge.errors import ModelError
from balcony_export.model.blueprint import Rope
from balcony_export.model.checkpoint import Array


def read_ropes(config: Any) -> dict[str, Rope]:
    """The rope tables of a config by name: "rope", or one for each layer type (Gemma 3 has local and global ones).

    Raises ModelError for a kind of scaling that transformers does not know.
    """
    parameters = config.rope_parameters
    if "rope_type" in parameters:
        return {"rope": _rope(config, parameters, None)}
    return {f"rope.{kind}": _rope(config, values, kind) for kind, values in parameters.items()}


def exact_context(config: Any) -> int:
    """How many positions a table holds exactly as transformers rotates them, at most max_position_embeddings.

    Longrope switches frequencies behind the length that it was first trained at, and a table cannot.
    """
    context = int(config.max_position_embeddings)
    parameters = config.rope_parameters
    for values in [parameters] if "rope_type" in parameters else parameters.values():
        if values["rope_type"] == "longrope":
            context = min(context, int(values["original_max_position_embeddings"]))
    return context


def rope_table(rope: Rope, rows: int) -> tuple[Array, Array]:
    """(cos, sin), fp32 [rows, rotated / 2] each, computed in float32 step by step as transformers does."""
    angles = np.arange(rows, dtype=np.float32)[:, None] * rope.frequencies
    factor = np.float32(rope.factor)
    return np.cos(angles) * factor, np.sin(angles) * factor


def _rope(config: Any, parameters: dict[str, Any], kind: str | None) -> Rope:
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    name = parameters["rope_type"]
    # Dynamic scaling begins behind the context that exact_context returns: up to there it is the default.
    if name in ("default", "dynamic"):
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        size = int(head * parameters.get("partial_rotary_factor", 1.0))
        frequencies = 1.0 / (parameters["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float) / size))
        return Rope(frequencies.numpy())
    if name not in ROPE_INIT_FUNCTIONS:
        raise ModelError(
            f"rope scaling {name!r} is not known to this version of transformers",
            f"upgrade transformers, or use a model with one of: default, {', '.join(sorted(ROPE_INIT_FUNCTIONS))}",
        )
    named = {} if kind is None else {"layer_type": kind}
    frequencies, factor = ROPE_INIT_FUNCTIONS[name](config, torch.device("cpu"), seq_len=None, **named)
    return Rope(frequencies.to(torch.float32).numpy(), float(factor))
