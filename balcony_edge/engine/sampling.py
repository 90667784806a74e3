"""From logits to a token: temperature, cuts and penalties, and the verification of drafts.

Drafts are verified so that speculation gives exactly the tokens (greedy) or the distribution (sampled) of plain
decoding: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", appendix A.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from balcony_edge.errors import BundleError, PromptError

Logits = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]
LARGEST = float(np.finfo(np.float32).max)
# Of how many likeliest tokens the log-probabilities can be told.
MOST_LOGPROBS = 20


class Sample(NamedTuple):
    """A token, and the probabilities fp64 [V] that it was drawn from; None if it is simply the likeliest (greedy)."""

    token: int
    probabilities: Probabilities | None


class Constraint(Protocol):
    """What may follow, such as a grammar (see text/grammar.py)."""

    def allowed(self, tokens: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Which tokens may follow ``tokens``, those of the reply so far: bool [V], at least one of them true."""
        ...


class Sampler:
    """Draws tokens from logits.

    Args:
        temp: temperature; 0 is greedy: always the likeliest token.
        top_k: draw only from the k likeliest tokens; 0 means all.
        top_p: draw only from the fewest likeliest tokens that together have this probability.
        min_p: draw only tokens at least this share as likely as the likeliest.
        repeat_penalty: above 1, makes tokens less likely that are already in the sequence.
        seed: of the random numbers; None means other numbers each time.
        presence_penalty: taken from the logits of tokens that the reply has already.
        frequency_penalty: taken from them for each time that it has them.
        logit_bias: added to tokens' logits; -100 as good as forbids a token, as in OpenAI's interface.
        constraint: what may follow; None: anything.
        top_logprobs: how many of the likeliest tokens' log-probabilities are told of every token, beside its own; None:
            none are told.

    Attributes:
        prompt_tokens: how many of the tokens are the prompt's, which penalties and the constraint leave out.

    Raises:
        PromptError: for a setting out of range.
    """

    def __init__(
        self,
        temp: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        *,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        logit_bias: Mapping[int, float] | None = None,
        constraint: Constraint | None = None,
        top_logprobs: int | None = None,
    ) -> None:
        checks = {
            "--temp": (temp, 0.0 <= temp < math.inf),
            "--top-k": (top_k, top_k >= 0),
            "--top-p": (top_p, 0.0 < top_p <= 1.0),
            "--min-p": (min_p, 0.0 <= min_p <= 1.0),
            "--repeat-penalty": (repeat_penalty, 0.0 < repeat_penalty < math.inf),
            "--seed": (seed, seed is None or seed >= 0),
            "presence_penalty": (presence_penalty, math.isfinite(presence_penalty)),
            "frequency_penalty": (frequency_penalty, math.isfinite(frequency_penalty)),
            "logit_bias": (logit_bias, all(map(math.isfinite, (logit_bias or {}).values()))),
            "top_logprobs": (top_logprobs, top_logprobs is None or 0 <= top_logprobs <= MOST_LOGPROBS),
        }
        for name, (value, fits) in checks.items():
            if not fits:
                hint = "leave it out for another text each time" if name == "--seed" else "see balcony-edge run --help"
                raise PromptError(f"{name} {value} is out of range", hint)
        self._temp, self._top_k, self._top_p, self._min_p = temp, top_k, top_p, min_p
        self._penalty = repeat_penalty
        self._presence, self._frequency = presence_penalty, frequency_penalty
        self._bias = dict(logit_bias or {})
        self._constraint = constraint
        self.top_logprobs = top_logprobs
        self.prompt_tokens = 0
        self._rng = np.random.default_rng(seed)
        self._seed = seed

    @property
    def plain_greedy(self) -> bool:
        """Whether the next token is simply the likeliest one, and nobody asks how likely: no logits are needed."""
        return self._temp == 0.0 and not self._adjusts and self.top_logprobs is None

    @property
    def _adjusts(self) -> bool:
        """Whether logits are changed before a token is chosen."""
        penalties = self._penalty != 1.0 or self._presence != 0.0 or self._frequency != 0.0
        return penalties or bool(self._bias) or self._constraint is not None

    @property
    def repeatable(self) -> bool:
        """Whether the same seed must give the same text. Then nothing may be drafted.

        Drafts draw random numbers too, and how many drafts there are depends on the clock.
        """
        return self._temp > 0.0 and self._seed is not None

    def choose(self, logits: Logits, tokens: Sequence[int]) -> Sample:
        """The token that follows ``tokens``, from its logits fp32 [V]."""
        probabilities = self._probabilities(logits, tokens)
        if probabilities is None:
            return Sample(self._likeliest(logits, tokens), None)
        return Sample(self._draw(probabilities), probabilities)

    def verify(self, draft: Sample, logits: Logits, tokens: Sequence[int]) -> tuple[int, bool]:
        """The token that follows ``tokens`` by the full model's ``logits`` fp32 [V], and whether it is the draft.

        Greedy: the model's likeliest token. Sampled: the draft, drawn from q, is accepted with probability
        min(1, p/q); a rejected one is replaced by a draw from max(0, p - q). So the token is distributed as the full
        model's p, whatever q was. A draft without probabilities was not drawn: its q is 1.
        """
        truth = self._probabilities(logits, tokens)
        if truth is None:
            token = self._likeliest(logits, tokens)
            return token, token == draft.token
        if draft.probabilities is None:
            if self._rng.random() < truth[draft.token]:
                return draft.token, True
            truth[draft.token] = 0.0
            return self._draw(truth), False
        if self._rng.random() * draft.probabilities[draft.token] < truth[draft.token]:
            return draft.token, True
        rest = np.maximum(truth - draft.probabilities, 0.0)
        return self._draw(rest if rest.any() else truth), False

    def _probabilities(self, logits: Logits, tokens: Sequence[int]) -> Probabilities | None:
        check_finite(logits.max())
        if self._temp == 0.0:
            return None
        logits = self._adjusted(logits, tokens)
        return distribution(logits, self._temp, self._top_k, self._top_p, self._min_p)

    def _likeliest(self, logits: Logits, tokens: Sequence[int]) -> int:
        return int(self._adjusted(logits, tokens).argmax())

    def _adjusted(self, logits: Logits, tokens: Sequence[int]) -> Logits:
        """The logits with penalties, biases and constraint; a copy if anything is changed."""
        if not self._adjusts:
            return logits
        logits = penalize(logits, tokens, self._penalty) if self._penalty != 1.0 and tokens else logits.copy()
        reply = tokens[self.prompt_tokens :]
        if reply and (self._presence or self._frequency):
            seen, counts = np.unique(np.asarray(reply, np.int64), return_counts=True)
            logits[seen] -= (self._presence + self._frequency * counts).astype(np.float32)
        for token, bias in self._bias.items():
            logits[token] += np.float32(bias)
        if self._constraint is not None:
            logits[~self._constraint.allowed(reply)] = -np.inf
        return logits

    def _draw(self, weights: Probabilities) -> int:
        cumulative = weights.cumsum()
        return int(cumulative.searchsorted(self._rng.random() * cumulative[-1], side="right"))


def check_finite(value: float) -> None:
    """Raise BundleError unless ``value``, the largest of some logits (NaN if one of them is), is a finite number."""
    if not math.isfinite(value):
        raise BundleError(
            "the model gave numbers that are not finite (NaN or infinity)",
            "if it computes in fp16, export it with --precision bf16 or for the CPU; else compare it with its model: "
            "balcony-edge verify",
        )


def penalize(logits: Logits, tokens: Sequence[int], penalty: float) -> Logits:
    """A copy of the logits [V] in which ``tokens`` are less likely: positive ones ÷ ``penalty``, others × ``penalty``.

    Source: Keskar et al. 2019, "CTRL", section 4.1.
    """
    penalized = logits.copy()
    seen = np.unique(np.asarray(tokens, np.int64))
    # A huge or tiny penalty stays within what fp32 holds.
    values = penalized[seen].astype(np.float64)
    with np.errstate(over="ignore"):
        values = np.where(values > 0, values / penalty, values * penalty)
    penalized[seen] = values.clip(-LARGEST, LARGEST)
    return penalized


def distribution(logits: Logits, temp: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Probabilities:
    """Probabilities fp64 [V] (sum 1) of logits [V] at a temperature above 0, cut by top-k, then min-p, then top-p."""
    # In place and by methods: numpy's functions and new arrays would take longer than the arithmetic.
    probabilities: Probabilities = np.subtract(logits, logits.max(), dtype=np.float64)
    # The likeliest token is at 0 before the division, so that a tiny temperature only drives the others to -inf.
    with np.errstate(over="ignore"):
        probabilities /= temp
    np.exp(probabilities, out=probabilities)
    if 0 < top_k < len(probabilities):
        probabilities[probabilities < np.partition(probabilities, -top_k)[-top_k]] = 0.0
    if min_p > 0.0:
        probabilities[probabilities < min_p * probabilities.max()] = 0.0
    probabilities /= probabilities.sum()
    if top_p < 1.0:
        # Tokens below this share cannot be in the set: all of them together have less than 1 - top_p.
        candidates = (probabilities >= (1.0 - top_p) / len(probabilities)).nonzero()[0]
        shares = probabilities[candidates]
        order = (-shares).argsort(kind="stable")
        shares = shares[order]
        # The token that crosses the line is in the set: its probability must reach top_p.
        count = int(shares.cumsum().searchsorted(top_p)) + 1
        probabilities.fill(0.0)
        probabilities[candidates[order[:count]]] = shares[:count] / shares[:count].sum()
    return probabilities
