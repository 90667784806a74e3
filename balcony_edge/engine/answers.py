"""What the head answers at some positions: the likeliest tokens, and how sure of them it is.

Read off the logits, or given by the head's own graph: bundles for GPUs compute it there, so that a greedy token brings
no logits to the host. On a CPU, where they are at hand, numpy takes less time than the graph's TopK.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from balcony_controller import Confidence
from balcony_edge.engine.sampling import Logits


class Answers(Protocol):
    """Rows of answers, one a position; they last until the head's next call."""

    def token(self, row: int) -> int:
        """The likeliest token; of equals the first."""
        ...

    def confidence(self, row: int) -> Confidence:
        """How sure the head is of it."""
        ...


class FromLogits:
    """Answers of logits fp32 [rows, V]."""

    def __init__(self, logits: Logits) -> None:
        self._logits = logits
        self._tokens: list[int] | None = None

    def token(self, row: int) -> int:
        """The likeliest token; of equals the first."""
        tokens = self._tokens
        if tokens is None:
            # Looked for once, and not at all where nobody asks.
            tokens = self._tokens = self._logits.argmax(axis=-1).tolist()
        return tokens[row]

    def confidence(self, row: int) -> Confidence:
        """How sure the head is of it."""
        return confidence(self._logits[row], self.token(row))


class FromHead:
    """Answers of the head's own graph, each [rows]: ``tokens`` int64, ``tops`` and ``margins`` fp32."""

    def __init__(self, tokens: npt.NDArray[np.int64], tops: Logits, margins: Logits) -> None:
        self._tokens, self._tops, self._margins = tokens, tops, margins

    def token(self, row: int) -> int:
        """The likeliest token; of equals the first."""
        return int(self._tokens[row])

    def confidence(self, row: int) -> Confidence:
        """How sure the head is of it."""
        return Confidence(float(self._tops[row]), float(self._margins[row]))


def confidence(logits: Logits, likeliest: int) -> Confidence:
    """Log-probability of the likeliest token of logits [V], and its lead over the second."""
    best = logits[likeliest]
    shares = logits - best
    np.exp(shares, out=shares)
    top = -math.log(shares.sum())
    logits[likeliest] = -np.inf
    margin = float(best - logits.max())
    logits[likeliest] = best
    return Confidence(top, margin)
