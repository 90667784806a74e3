"""What the LM head answers at some positions: the likeliest token of each, and how sure the head is of it.

Bundles for GPUs compute this inside the head's graph, so that greedy decoding copies no logits to the host. On a CPU
the logits are at hand, and numpy finds the likeliest token faster than the graph's TopK would.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from balcony_controller import Confidence
from balcony_edge.engine.sampling import Logits, check_finite


class Answers(Protocol):
    """The answers at several positions, one row each. They are valid until the head's next call."""

    def token(self, row: int) -> int:
        """The likeliest token; the lowest id among equals. Raises BundleError if the logits are not finite."""
        ...

    def confidence(self, row: int) -> Confidence:
        """How sure the head is of that token."""
        ...


class FromLogits:
    """Answers computed from logits fp32 [rows, vocabulary]."""

    def __init__(self, logits: Logits) -> None:
        self._logits = logits
        self._tokens: list[int] | None = None

    def token(self, row: int) -> int:
        """The likeliest token; the lowest id among equals."""
        tokens = self._tokens
        if tokens is None:
            # Computed once for all rows, and only if somebody asks.
            tokens = self._tokens = self._logits.argmax(axis=-1).tolist()
        # NaN counts as the largest: one look finds it anywhere in the row.
        check_finite(self._logits[row, tokens[row]])
        return tokens[row]

    def confidence(self, row: int) -> Confidence:
        """How sure the head is of that token."""
        return confidence(self._logits[row], self.token(row))


class FromHead:
    """Answers that the head's graph computed, each [rows]: ``tokens`` int64, ``tops`` and ``margins`` fp32.

    ``tops`` and ``margins`` are the fields of Confidence.
    """

    def __init__(self, tokens: npt.NDArray[np.int64], tops: Logits, margins: Logits) -> None:
        self._tokens, self._tops, self._margins = tokens, tops, margins

    def token(self, row: int) -> int:
        """The likeliest token; the lowest id among equals."""
        check_finite(self._tops[row])
        return int(self._tokens[row])

    def confidence(self, row: int) -> Confidence:
        """How sure the head is of that token."""
        return Confidence(float(self._tops[row]), float(self._margins[row]))


def confidence(logits: Logits, likeliest: int) -> Confidence:
    """The confidence of fp32 logits [vocabulary]: log-probability of the token ``likeliest``, and its lead in logits.

    ``logits`` are changed for a moment and put back: a copy would take longer than the computation.
    """
    best = logits[likeliest]
    shares = logits - best
    np.exp(shares, out=shares)
    top = -math.log(shares.sum())
    logits[likeliest] = -np.inf
    margin = float(best - logits.max())
    logits[likeliest] = best
    return Confidence(top, margin)
