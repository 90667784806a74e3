"""The gate: how likely an exit's token is the full model's, asked after the exit's layer and before the head.

    normed hidden ─ the head's rows of the K most frequent tokens ─ log-softmax ─ top, margin
    top, margin ─ five features ─ Linear(5, 1) ─ sigmoid ─ probability

The head of a large vocabulary costs more than an exit's layer. Its rows of the most frequent tokens, an eighth of all,
tell nearly as much as the whole: how likely the likeliest of these tokens is among them (``top``), and how far it lies
ahead of the second (``margin``). These rows are the base's own and stay frozen. What is fitted are five weights and a
bias, by logistic regression on held-out text. Gates that read hidden states without any of the head's rows tell less
and cost more (docs/exits.md has the figures).

The likeliest of the frequent tokens is also a draft for the full model to verify: the gate draft.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_edge.measure.chances import Flags, Floats
from balcony_export.exits.calibration import logistic
from balcony_export.model.checkpoint import Array
from balcony_export.model.lm_head import LMHead

# The gate reads this share of the head's rows, up to a limit.
GATE_ROWS_SHARE = 1 / 8
MOST_GATE_ROWS = 4096


@dataclass(frozen=True)
class Gate:
    """Logit = ``weight`` · (top, margin, e^top, e^-margin, e^(top-margin)) + ``bias``.

    ``top`` and ``margin`` are those of the gate head's Predictions, in nats. The three exponentials are the likeliest
    token's probability, the second token's odds against it, and the second token's probability. Without them the
    calibration error is twice as large.
    """

    weight: npt.NDArray[Any]
    """[5]"""
    bias: npt.NDArray[Any]
    """[1]"""

    @classmethod
    def fitted(cls, top: Floats, margin: Floats, agrees: Flags) -> Gate:
        """The gate that fits ``agrees``: whether the exit's token was the full model's. All arrays have one shape."""
        weights = logistic(cls.features(top.ravel(), margin.ravel()), agrees.ravel())
        return cls(weights[:-1], weights[-1:])

    @classmethod
    def of(cls, tensors: dict[str, Array]) -> Gate:
        """The gate of its tensors, as ``tensors`` returns them."""
        return cls(tensors["weight"], tensors["bias"])

    def tensors(self) -> dict[str, Array]:
        """``weight`` and ``bias`` in fp32, as exits.safetensors holds them."""
        return {"weight": self.weight.astype(np.float32), "bias": self.bias.astype(np.float32)}

    def logits(self, top: Floats, margin: Floats) -> Floats:
        """The logits of the calibrated probabilities, of the shape of ``top`` and ``margin``."""
        return np.asarray(self.features(top, margin) @ self.weight + self.bias[0])

    @staticmethod
    def features(top: Floats, margin: Floats) -> Floats:
        """The five features [..., 5] of ``top`` and ``margin`` [...]."""
        return np.stack([top, margin, np.exp(top), np.exp(-margin), np.exp(top - margin)], axis=-1)


def most_frequent(counts: npt.NDArray[np.int64], count: int) -> tuple[int, ...]:
    """The ``count`` tokens that a text has most of, as ascending ids. ``counts`` [vocabulary]: how often each is."""
    return tuple(sorted(np.argsort(-counts, kind="stable")[:count].tolist()))


def frequent_tokens(counts: npt.NDArray[np.int64], share: float = GATE_ROWS_SHARE) -> tuple[int, ...]:
    """The tokens whose rows of the head the gates read: the most frequent ones, by ``counts`` [vocabulary]."""
    return most_frequent(counts, max(2, min(MOST_GATE_ROWS, int(share * len(counts)))))


def gate_head(head: LMHead, tokens: tuple[int, ...]) -> LMHead:
    """The part of the head that gates read: its rows of ``tokens``."""
    return replace(head, weight=head.weight[list(tokens)])
