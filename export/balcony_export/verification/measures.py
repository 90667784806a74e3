"""Measures of how far two models differ, over positions that come in chunks: in tensors, and in distributions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from balcony_edge.bundle.manifest import Formats

Values = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

# The same sums in another order differ a little. Random models of 6 layers, in sixteen variants of ten families, differ
# by less than 6e-6.
LIMIT = 1e-4

# How many positions are compared at a time. For a vocabulary of 262,144, their float64 logits take 34 MB.
CHUNK = 16


@dataclass
class Gap:
    """The largest differences so far between found and expected rows [positions, width].

    Both are None before the first row, and NaN once a value was found that is not finite.
    """

    absolute: float | None = None
    """The largest |found - expected|."""
    scaled: float | None = None
    """The same, but each position's difference is first divided by its largest |expected|, or by 1 if that is smaller.
    fp32 has 24 bits, so rounding errors grow with the values."""

    def add(self, found: Values, expected: Values) -> None:
        """Add some positions."""
        if not np.isfinite(found).all():
            self.absolute = self.scaled = math.nan
            return
        rows = np.abs(found.astype(np.float64) - expected).max(axis=-1)
        size = np.maximum(1.0, np.abs(expected).max(axis=-1))
        # numpy's maximum, unlike Python's max, keeps a NaN.
        self.absolute = float(np.maximum(self.absolute or 0.0, rows.max(initial=0.0)))
        self.scaled = float(np.maximum(self.scaled or 0.0, (rows / size).max(initial=0.0)))


@dataclass
class Mean:
    """A mean over positions; NaN before the first."""

    total: float = 0.0
    count: int = 0

    def add(self, values: npt.NDArray[np.floating | np.bool_]) -> None:
        """Add one value for each position."""
        self.total += float(values.sum(dtype=np.float64))
        self.count += values.size

    @property
    def value(self) -> float:
        """The mean."""
        return self.total / self.count if self.count else math.nan


def is_exact(formats: Formats, exits: bool = False) -> bool:
    """Whether every number of the full depth, and with ``exits`` of the exits too, is fp32."""
    used = {formats.base, formats.head, formats.activations, formats.cache} | ({formats.exits} if exits else set())
    return used == {"fp32"}


def log_probabilities(logits: Values) -> Doubles:
    """Float64 log-probabilities [positions, V] of logits [positions, V]."""
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which fails every comparison, as it should
        wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide


def divergence(log_p: Doubles, log_q: Doubles) -> Doubles:
    """KL(p ‖ q) in nats [positions], never below 0, of log-probabilities [positions, V]."""
    rows: Doubles = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    # Of equal distributions, rounding may leave -1e-16.
    return np.maximum(rows, 0.0)


def number(value: float | None) -> float | None:
    """The value for JSON: None for NaN and infinity, which JSON does not have."""
    return value if value is not None and math.isfinite(value) else None
