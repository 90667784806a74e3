"""How far two models lie apart: differences of tensors and divergence of distributions, summed chunk by chunk."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

# Positions compared at once: 16 rows of a vocabulary of 262,144 are 34 MB in float64.
CHUNK = 16


@dataclass
class Gap:
    """The largest differences seen so far between found and expected rows [positions, width].

    ``absolute`` is max |Δ|. ``scaled`` divides each position's by the largest magnitude that is expected there, or by
    1 where that is smaller: fp32 keeps 24 bits of a value, so what is right to a bit differs more where values are
    large. Both are NaN once a value that is not finite was found, and None before any row was.
    """

    absolute: float | None = None
    scaled: float | None = None

    def add(self, found: Values, expected: Values) -> None:
        """Take in some positions."""
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
        """Take in one value a position."""
        self.total += float(values.sum(dtype=np.float64))
        self.count += values.size

    @property
    def value(self) -> float:
        """The mean."""
        return self.total / self.count if self.count else math.nan


def log_probabilities(logits: Values) -> Doubles:
    """Float64 log-probabilities [positions, V] of logits [positions, V]."""
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf: what is not finite stays so, and fails
        wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide


def divergence(log_p: Doubles, log_q: Doubles) -> Doubles:
    """KL(p ‖ q) in nats [positions] of log-probabilities [positions, V]; never below 0."""
    rows: Doubles = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    # Rounding can leave -1e-16 where both are equal.
    return np.maximum(rows, 0.0)


def number(value: float | None) -> float | None:
    """The value for JSON, which knows no NaN and no infinity: None for those."""
    return value if value is not None and math.isfinite(value) else None
