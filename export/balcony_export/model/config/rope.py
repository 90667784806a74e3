"""Rotary positions as tables, for every kind of scaling in transformers that a table can hold exactly.

Frequencies are computed in float32, in transformers' order. Only powers are taken in float64 and rounded: torch's own
float32 powers differ in their last bit from one kind of CPU to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from balcony_edge.errors import ModelError
from balcony_export.model.blueprint import Rope
from balcony_export.model.checkpoint import Array

Config = Mapping[str, Any]
Settings = Mapping[str, Any]

ONE = np.float32(1)


def read_ropes(config: Config) -> dict[str, Rope]:
    """The rope tables of a config by name: "rope", or one for each layer type (Gemma 3 has local and global ones).

    ``config``: see completed.complete. Raises ModelError for a kind of scaling that is not known.
    """
    parameters = config["rope_parameters"]
    if "rope_type" in parameters:
        return {"rope": _rope(config, parameters)}
    # Where there are several tables, transformers looks for yarn's "truncate" beside them, and finds none.
    several = {kind: {**values, "truncate": True} for kind, values in parameters.items()}
    return {f"rope.{kind}": _rope(config, values) for kind, values in several.items()}


def exact_context(config: Config) -> int:
    """How many positions a table holds exactly as transformers rotates them, at most max_position_embeddings.

    Longrope switches frequencies behind the length that it was first trained at, and a table cannot.
    """
    context = int(config["max_position_embeddings"])
    parameters = config["rope_parameters"]
    for values in [parameters] if "rope_type" in parameters else parameters.values():
        if values["rope_type"] == "longrope":
            context = min(context, int(values["original_max_position_embeddings"]))
    return context


def rope_table(rope: Rope, rows: int) -> tuple[Array, Array]:
    """(cos, sin), fp32 [rows, rotated / 2] each, computed in float32 step by step as transformers does."""
    angles = np.arange(rows, dtype=np.float32)[:, None] * rope.frequencies
    factor = np.float32(rope.factor)
    return np.cos(angles) * factor, np.sin(angles) * factor


def _rope(config: Config, settings: Settings) -> Rope:
    kind, head = settings["rope_type"], config["head_dim"]
    if kind not in KINDS:
        raise ModelError(
            f"rope scaling {kind!r} is not known to balcony-edge", f"use a model with one of: {', '.join(KINDS)}"
        )
    with np.errstate(all="ignore"):  # what is no number is found below
        rope = KINDS[kind](config, settings, int(head * settings.get("partial_rotary_factor", 1.0)))
    if rope.rotated > head or not np.isfinite(rope.frequencies).all() or not math.isfinite(rope.factor):
        raise ValueError(f"rope_parameters turn {rope.rotated} elements of heads of {head}, or by what is no number")
    return rope


def _default(config: Config, settings: Settings, size: int) -> Rope:
    return Rope(ONE / _lengths(settings, size))


def _linear(config: Config, settings: Settings, size: int) -> Rope:
    return Rope(ONE / _lengths(settings, size) / np.float32(settings["factor"]))


def _proportional(config: Config, settings: Settings, size: int) -> Rope:
    """The first frequencies of a whole head; the rest of it does not turn."""
    head = config["head_dim"]
    turning = int(settings.get("partial_rotary_factor", 1.0) * head // 2)
    frequencies = np.zeros(head // 2, np.float32)
    frequencies[:turning] = ONE / _lengths(settings, 2 * turning, head)
    frequencies /= np.float32(settings.get("factor", 1.0))
    return Rope(frequencies)


def _llama3(config: Config, settings: Settings, size: int) -> Rope:
    """Slow frequencies are divided by the factor, fast ones stay, and those in between are blended."""
    factor, original = np.float32(settings["factor"]), settings["original_max_position_embeddings"]
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    frequencies = ONE / _lengths(settings, size)
    lengths = np.float32(2 * math.pi) / frequencies
    longer, shorter = lengths > np.float32(original / low), lengths < np.float32(original / high)
    slow = np.where(longer, frequencies / factor, frequencies)
    share = (np.float32(original) / lengths - np.float32(low)) / np.float32(high - low)
    blended = (ONE - share) * slow / factor + share * slow
    return Rope(np.where(~longer & ~shorter, blended, slow))


def _longrope(config: Config, settings: Settings, size: int) -> Rope:
    """Every frequency has a divisor of its own: the short ones, which hold up to the original context."""
    original = settings["original_max_position_embeddings"]
    factor, scale = settings.get("factor"), settings.get("attention_factor")
    if factor is None:
        factor = config["max_position_embeddings"] / original
    if scale is None:
        scale = 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(original))
    divisors = np.array(settings["short_factor"], np.float32)
    return Rope(ONE / (divisors * _lengths(settings, size)), float(scale))


def _yarn(config: Config, settings: Settings, size: int) -> Rope:
    """arXiv 2309.00071: slow frequencies divided by the factor, fast ones as they are, a ramp between."""
    base, original = settings["rope_theta"], settings["original_max_position_embeddings"]
    factor = settings["factor"]
    if factor is None:
        factor = config["max_position_embeddings"] / original

    def place(turns: float) -> float:
        """Where the frequency is that turns so often within the original context."""
        return float((size * math.log(original / (turns * 2 * math.pi))) / (2 * math.log(base)))

    low, high = place(settings.get("beta_fast") or 32), place(settings.get("beta_slow") or 1)
    if settings.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    if low == high:
        high += 0.001  # as transformers does, so that nothing is divided by 0
    ramp = (np.arange(size // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    kept = ONE - np.clip(ramp, 0, 1)
    lengths = _lengths(settings, size)
    return Rope(
        ONE / (np.float32(factor) * lengths) * (ONE - kept) + ONE / lengths * kept, _yarn_scale(factor, settings)
    )


def _yarn_scale(factor: float, settings: Settings) -> float:
    """What multiplies cos and sin."""

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if (given := settings.get("attention_factor")) is not None:
        return float(given)
    whole, some = settings.get("mscale_all_dim"), settings.get("mscale")
    return scale(some) / scale(whole) if some and whole else scale(1)


def _lengths(settings: Settings, size: int, of: int | None = None) -> Array:
    """theta ** (0, 2 / of, 4 / of, …): how many positions an angle of 1 takes, fp32 [⌈size / 2⌉]. ``of``: or size."""
    return _powers(settings["rope_theta"], np.arange(0, size, 2, dtype=np.float32) / np.float32(of or size))


def _powers(base: float, exponents: Array) -> Array:
    return np.power(np.float64(np.float32(base)), exponents.astype(np.float64)).astype(np.float32)


# Dynamic scaling begins behind the context that exact_context returns: up to there it is the default.
KINDS: dict[str, Callable[[Config, Settings, int], Rope]] = {
    "default": _default,
    "dynamic": _default,
    "linear": _linear,
    "llama3": _llama3,
    "longrope": _longrope,
    "proportional": _proportional,
    "yarn": _yarn,
}
