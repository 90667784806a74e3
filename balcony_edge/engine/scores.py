"""Log-probabilities of emitted tokens, as the depth that answered gave them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balcony_edge.engine.sampling import Logits


class TokenScore(NamedTuple):
    """A token's log-probability in nats, and those of the likeliest ones, (token, log-probability), best first.

    They are of the model's own distribution: before temperature, penalties, biases and grammars.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def score(logits: Logits, token: int, count: int) -> TokenScore:
    """The score of ``token`` by logits fp32 [V], and of the ``count`` likeliest tokens; equals by lower id first."""
    shifted = logits.astype(np.float64) - float(logits.max())
    shifted -= np.log(np.exp(shifted).sum())
    top: tuple[tuple[int, float], ...] = ()
    if count:
        # One more than asked for would not help: among equals at the edge the lowest ids are taken.
        edge = np.partition(shifted, -count)[-count]
        ids = np.flatnonzero(shifted >= edge)
        order = ids[np.lexsort((ids, -shifted[ids]))][:count]
        top = tuple((int(one), float(shifted[one])) for one in order)
    return TokenScore(float(shifted[token]), top)
