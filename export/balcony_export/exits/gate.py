"""The gate: before an exit's token is paid for, how likely is it to be the full model's?

    normed hidden ─ the head's rows of K frequent tokens ─ log-softmax ─ top, margin ─ Linear(4, 1) ─ sigmoid

It sits behind an exit's layer and in front of the head. Where the layer has run, a *peek* at a few of the head's rows
tells nearly as much as all of them: how likely the likeliest of the frequent tokens is among these, and its lead over
the second. The rows are the base's own, frozen; what is fitted, by logistic regression on held-out text, is six
numbers. Whatever looks at hidden states without the head's rows tells less, and costs more (see docs/exits.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_export.data import corpus
from balcony_export.exits.calibration import Flags, Floats, logistic
from balcony_export.exits.store import Array
from balcony_export.model.lm_head import LMHead

# So many tokens are looked at: this share of the vocabulary, and no more than that.
PEEKED_SHARE = 1 / 8
MOST_PEEKED = 4096


@dataclass(frozen=True)
class Gate:
    """Logit = ``weight`` · (top, margin, e^top, e^-margin, e^(top-margin)) + ``bias``, of Answers of the peeking head.

    Weight [5], bias [1]. The exponentials are the likeliest token's probability, the second's odds against it and the
    second's probability: with them the calibration error is about that of chance, without, twice as large.
    """

    weight: npt.NDArray[Any]
    bias: npt.NDArray[Any]

    @classmethod
    def fitted(cls, top: Floats, margin: Floats, agrees: Flags) -> Gate:
        """The calibrated gate of these outcomes; all of one shape."""
        fitted = logistic(cls.features(top.ravel(), margin.ravel()), agrees.ravel())
        return cls(fitted[:-1], fitted[-1:])

    @classmethod
    def of(cls, tensors: dict[str, Array]) -> Gate:
        """From its tensors."""
        return cls(tensors["weight"], tensors["bias"])

    def tensors(self) -> dict[str, Array]:
        """As exits.safetensors keeps it."""
        return {"weight": self.weight.astype(np.float32), "bias": self.bias.astype(np.float32)}

    def logits(self, top: Floats, margin: Floats) -> Floats:
        """Calibrated logits, of the shape of ``top`` and ``margin``."""
        return np.asarray(self.features(top, margin) @ self.weight + self.bias[0])

    @staticmethod
    def features(top: Floats, margin: Floats) -> Floats:
        """What the logit is linear in: [..., 5] of ``top`` and ``margin`` [...]."""
        return np.stack([top, margin, np.exp(top), np.exp(-margin), np.exp(top - margin)], axis=-1)


def frequent_tokens(stream: corpus.Tokens, vocabulary: int, share: float = PEEKED_SHARE) -> tuple[int, ...]:
    """The tokens that gates look at: the most frequent ones of a text, ascending."""
    count = max(2, min(MOST_PEEKED, int(share * vocabulary)))
    order = np.argsort(-np.bincount(stream, minlength=vocabulary), kind="stable")
    return tuple(sorted(order[:count].tolist()))


def peeking(head: LMHead, tokens: tuple[int, ...]) -> LMHead:
    """The head cut to some tokens."""
    return replace(head, weight=head.weight[list(tokens)])
