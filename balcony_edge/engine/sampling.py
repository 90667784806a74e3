"""From logits to a token: a sampler is a closure, so that the decode loop never sees a temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from balcony_edge.errors import PromptError

# (logits fp32 [V], the tokens so far) → token id
Sampler = Callable[[npt.NDArray[np.float32], Sequence[int]], int]


def make_sampler(
    temp: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repeat_penalty: float = 1.0,
    seed: int | None = None,
) -> Sampler:
    """A sampler; ``temp`` 0 is greedy. Raises PromptError for settings out of range.

    ``top_k`` keeps the k most likely (0: all), ``top_p`` the smallest set of that probability, ``min_p`` those at
    least that share as likely as the likeliest; ``repeat_penalty`` > 1 divides the logits of tokens already there.
    """
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
    rng = np.random.default_rng(seed)

    def sample(logits: npt.NDArray[np.float32], tokens: Sequence[int]) -> int:
        if repeat_penalty != 1.0 and tokens:
            logits = penalize(logits, tokens, repeat_penalty)
        if temp == 0.0:
            return int(logits.argmax())
        probabilities = distribution(logits, temp, top_k, top_p, min_p)
        cumulative = np.cumsum(probabilities)
        return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))

    return sample


def penalize(logits: npt.NDArray[np.float32], tokens: Sequence[int], penalty: float) -> npt.NDArray[np.float32]:
    """A copy of the logits with those of ``tokens`` moved towards unlikely by ``penalty`` (CTRL, section 4.1)."""
    penalized = logits.copy()
    seen = np.unique(np.asarray(tokens, np.int64))
    values = penalized[seen]
    penalized[seen] = np.where(values > 0, values / penalty, values * penalty)
    return penalized


def distribution(
    logits: npt.NDArray[np.float32], temp: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> npt.NDArray[np.float64]:
    """Probabilities [V] (sum 1) at a temperature above 0, cut by top-k, then min-p, then top-p."""
    scaled = logits.astype(np.float64) / temp
    probabilities: npt.NDArray[np.float64] = np.exp(scaled - scaled.max())
    if 0 < top_k < len(probabilities):
        probabilities[probabilities < np.partition(probabilities, -top_k)[-top_k]] = 0.0
    if min_p > 0.0:
        probabilities[probabilities < min_p * probabilities.max()] = 0.0
    probabilities /= probabilities.sum()
    if top_p < 1.0:
        # Tokens below this share cannot be in the set: all of them together are less than what is left out.
        candidates = np.flatnonzero(probabilities >= (1.0 - top_p) / len(probabilities))
        order = candidates[np.argsort(-probabilities[candidates], kind="stable")]
        # Keep the token that crosses the line: the set's probability must reach top_p.
        kept = order[: int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1]
        nucleus = np.zeros_like(probabilities)
        nucleus[kept] = probabilities[kept] / probabilities[kept].sum()
        return nucleus
    return probabilities
