"""From logits to a token: a sampler hides temperature and cuts from the decode loop.

It also verifies drafts, so that speculation gives exactly the tokens (greedy) or the distribution (sampled) that plain
decoding gives: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", appendix A.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from balcony_edge.errors import PromptError

Logits = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]


class Sample(NamedTuple):
    """A token, and the probabilities [V] that it was drawn from; None for the likeliest token (greedy)."""

    token: int
    probabilities: Probabilities | None


class Sampler:
    """Chooses tokens; ``temp`` 0 is greedy. Raises PromptError for settings out of range.

    ``top_k`` keeps the k most likely (0: all), ``top_p`` the smallest set of that probability, ``min_p`` those at
    least that share as likely as the likeliest; ``repeat_penalty`` > 1 divides the logits of tokens already there.
    """

    def __init__(
        self,
        temp: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
    ) -> None:
        checks = {
            "--temp": (temp, temp >= 0.0),
            "--top-k": (top_k, top_k >= 0),
            "--top-p": (top_p, 0.0 < top_p <= 1.0),
            "--min-p": (min_p, 0.0 <= min_p <= 1.0),
            "--repeat-penalty": (repeat_penalty, repeat_penalty > 0.0),
        }
        for name, (value, fits) in checks.items():
            if not fits:
                raise PromptError(f"{name} {value} is out of range", "see balcony-edge run --help")
        self._temp, self._top_k, self._top_p, self._min_p = temp, top_k, top_p, min_p
        self._penalty = repeat_penalty
        self._rng = np.random.default_rng(seed)
        self._seed = seed

    @property
    def plain_greedy(self) -> bool:
        """Whether the token is simply the likeliest one."""
        return self._temp == 0.0 and self._penalty == 1.0

    @property
    def repeatable(self) -> bool:
        """Whether the same draws must come again: drafts would take some of them, and how many the clock decides."""
        return self._temp > 0.0 and self._seed is not None

    def choose(self, logits: Logits, tokens: Sequence[int]) -> Sample:
        """The next token after ``tokens`` from its logits [V]."""
        probabilities = self._probabilities(logits, tokens)
        if probabilities is None:
            return Sample(self._likeliest(logits, tokens), None)
        return Sample(self._draw(probabilities), probabilities)

    def verify(self, draft: Sample, logits: Logits, tokens: Sequence[int]) -> tuple[int, bool]:
        """(token, whether it is the draft) that follows ``tokens``, by the full model's ``logits`` [V].

        Greedy: the model's token. Sampled: the draft is kept with probability min(1, p/q); in its place comes a token
        from the rest of p, so that the outcome is distributed as p, whatever q was.
        """
        truth = self._probabilities(logits, tokens)
        if truth is None or draft.probabilities is None:
            token = self._likeliest(logits, tokens)
            return token, token == draft.token
        if self._rng.random() * draft.probabilities[draft.token] < truth[draft.token]:
            return draft.token, True
        rest = np.maximum(truth - draft.probabilities, 0.0)
        return self._draw(rest if rest.any() else truth), False

    def _probabilities(self, logits: Logits, tokens: Sequence[int]) -> Probabilities | None:
        if self._temp == 0.0:
            return None
        logits = self._penalized(logits, tokens)
        return distribution(logits, self._temp, self._top_k, self._top_p, self._min_p)

    def _likeliest(self, logits: Logits, tokens: Sequence[int]) -> int:
        return int(self._penalized(logits, tokens).argmax())

    def _penalized(self, logits: Logits, tokens: Sequence[int]) -> Logits:
        return logits if self._penalty == 1.0 or not tokens else penalize(logits, tokens, self._penalty)

    def _draw(self, weights: Probabilities) -> int:
        cumulative = weights.cumsum()
        return int(cumulative.searchsorted(self._rng.random() * cumulative[-1], side="right"))


def penalize(logits: Logits, tokens: Sequence[int], penalty: float) -> Logits:
    """A copy of the logits with those of ``tokens`` moved towards unlikely by ``penalty`` (CTRL, section 4.1)."""
    penalized = logits.copy()
    seen = np.unique(np.asarray(tokens, np.int64))
    values = penalized[seen]
    penalized[seen] = np.where(values > 0, values / penalty, values * penalty)
    return penalized


def distribution(logits: Logits, temp: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Probabilities:
    """Probabilities [V] (sum 1) at a temperature above 0, cut by top-k, then min-p, then top-p."""
    # Methods and outputs in place: numpy's functions and fresh arrays would take longer than the arithmetic.
    probabilities: Probabilities = np.divide(logits, temp, dtype=np.float64)
    probabilities -= probabilities.max()
    np.exp(probabilities, out=probabilities)
    if 0 < top_k < len(probabilities):
        probabilities[probabilities < np.partition(probabilities, -top_k)[-top_k]] = 0.0
    if min_p > 0.0:
        probabilities[probabilities < min_p * probabilities.max()] = 0.0
    probabilities /= probabilities.sum()
    if top_p < 1.0:
        # Tokens below this share cannot be in the set: all of them together are less than what is left out.
        candidates = (probabilities >= (1.0 - top_p) / len(probabilities)).nonzero()[0]
        shares = probabilities[candidates]
        order = (-shares).argsort(kind="stable")
        shares = shares[order]
        # Keep the token that crosses the line: the set's probability must reach top_p.
        count = int(shares.cumsum().searchsorted(top_p)) + 1
        probabilities.fill(0.0)
        probabilities[candidates[order[:count]]] = shares[:count] / shares[:count].sum()
    return probabilities
