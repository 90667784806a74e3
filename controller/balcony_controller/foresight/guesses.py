"""Guesses of the draft stage: whether the next one is worth making, and whether it is worth a place in a deep pass.

A guess costs a layer and a few rows of the head, and a row in the pass that verifies it. How often it is right depends
on how sure the stage is, on its place among the guesses of a step and on the text; that is learnt while decoding.
"""

from __future__ import annotations

import math
from bisect import bisect_right

from balcony_controller.foresight.rates import Rates


class Guesses:
    """How often guesses are right, by their probability among drafts and by their place, and which are worth a row."""

    # Probabilities between the classes, and how often guesses of each are taken to be right before any was seen.
    EDGES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.85, 0.93)
    EXPECTED = (0.08, 0.2, 0.33, 0.47, 0.62, 0.75, 0.85, 0.93)
    # The first guess of a step, and all later ones, which are made from guessed hidden states.
    PLACES = 2
    # How fast the shares of the classes are followed.
    FOLLOW = 0.05
    # A guess must promise to be so much cheaper, as a share of what its token costs otherwise.
    MARGIN = 0.02
    # After so many steps without a guess, one is made to see whether they pay now.
    AGAIN = 48

    def __init__(self) -> None:
        self._log_edges = [math.log(edge) for edge in self.EDGES]
        self.rates = [Rates(self.EXPECTED) for _ in range(self.PLACES)]
        even = 1.0 / len(self.EXPECTED)
        self._shares = [[even] * len(self.EXPECTED) for _ in range(self.PLACES)]
        self._made: list[int] = []
        self._idle = 0
        self.prefix = 1.0

    def begin_step(self) -> None:
        """A step begins: nothing is held."""
        self._made.clear()
        self.prefix = 1.0

    @property
    def count(self) -> int:
        """How many guesses are held."""
        return len(self._made)

    def is_worth_making(self, token_ms: float, row_ms: float, guess_ms: float) -> bool:
        """Whether the next guess is expected to gain more than it costs.

        ``token_ms``: what a token costs otherwise. ``row_ms``: what a guess must gain to be held: what one more
        position adds to the pass that verifies it, and, where no pass would be made without it, what that costs more
        than its own token. ``guess_ms``: what the guess itself costs.
        """
        place = self._place
        worth_ms = self.prefix * token_ms * (1.0 - self.MARGIN)
        gain_ms = 0.0
        for share, chance in zip(self._shares[place], self.rates[place].chances, strict=True):
            if (gain := worth_ms * chance - row_ms) > 0.0:
                gain_ms += share * gain
        if gain_ms > guess_ms:
            self._idle = 0
            return True
        # One that costs as much as a token, because the stage lacks a whole prompt, is not even tried.
        if self._made or guess_ms > token_ms:
            return False
        self._idle += 1
        if self._idle < self.AGAIN:
            return False
        self._idle = 0
        return True

    def is_worth_a_row(self, top: float, token_ms: float, row_ms: float) -> bool:
        """Whether a guess of log-probability ``top`` is worth verifying; if so it is held."""
        place = self._place
        index = bisect_right(self._log_edges, top)
        shares = self._shares[place]
        for other, share in enumerate(shares):
            shares[other] = share + self.FOLLOW * ((other == index) - share)
        chance = self.rates[place].chances[index]
        if self.prefix * chance * token_ms * (1.0 - self.MARGIN) <= row_ms:
            return False
        self.prefix *= chance
        self._made.append(index)
        return True

    def learn(self, checked: int, accepted: int) -> None:
        """Of the guesses held, the first ``checked`` were compared with the full model's; ``accepted`` were right."""
        for place, index in enumerate(self._made[:checked]):
            self.rates[min(place, self.PLACES - 1)].learn(index, place < accepted)

    @property
    def _place(self) -> int:
        return min(len(self._made), self.PLACES - 1)
