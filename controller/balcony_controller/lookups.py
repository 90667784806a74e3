"""Drafts that were looked up in the text: how many of them are worth a place in a deep pass.

They cost nothing to make, but each adds a row to the pass that verifies it. How often they are right depends on the
text and on how long the match was; that is learnt while decoding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

# Matches that are longer count as this long, in tokens.
MOST_MATCH = 16


class Found(NamedTuple):
    """A place where the text has gone on before. ``match``: how many tokens are the same there, at most MOST_MATCH.

    ``drafts``: how many tokens can be drafted from it.
    """

    match: int
    drafts: int


class Lookups:
    """How often drafts are right by the length of their match, and what passes that verify them really take."""

    # Matches are counted in these classes: up to so many tokens.
    CLASSES = (2, 3, 4, 6, 9, 12, MOST_MATCH)
    # What is expected before anything was seen, and how many drafts that counts for.
    EXPECTED = (0.35, 0.45, 0.55, 0.65, 0.75, 0.8, 0.85)
    WEIGHT = 4.0
    # Each draft of a class makes what was seen before count a little less: texts change.
    MEMORY = 0.97
    # How fast the measured time of such passes is followed, as a logarithm over the profiled one.
    FOLLOW = 0.15
    # A pass must promise to be so much cheaper, as a share of what its tokens cost otherwise.
    MARGIN = 0.02

    def __init__(self) -> None:
        self._right = [share * self.WEIGHT for share in self.EXPECTED]
        self._seen = [self.WEIGHT] * len(self.CLASSES)
        self._log_ratio = 0.0

    def chance(self, match: int) -> float:
        """Probability that a draft after a match of so many tokens is right."""
        place = self._class(match)
        return self._right[place] / self._seen[place]

    def best(self, found: Found, token_ms: float, pass_ms: Callable[[int], float]) -> int:
        """How many drafts to verify; 0 if that gains nothing.

        ``token_ms``: what a token costs otherwise. ``pass_ms``: what a deep pass over so many drafts costs; both by the
        profile.
        """
        if not found.drafts:
            return 0
        ratio = math.exp(self._log_ratio)
        expected, prefix, best, most = 1.0, 1.0, 0, 0.0
        for count in range(1, found.drafts + 1):
            prefix *= self.chance(min(found.match + count - 1, MOST_MATCH))
            expected += prefix
            gain = expected * token_ms * (1.0 - self.MARGIN) - pass_ms(count) * ratio
            if gain > most:
                best, most = count, gain
            if prefix < 0.05:
                break
        return best

    def learn(self, found: Found, checked: int, accepted: int) -> None:
        """Of the drafts after ``found``, ``checked`` were compared with the full model's; the first were right."""
        for place in range(checked):
            index = self._class(min(found.match + place, MOST_MATCH))
            self._right[index] = self._right[index] * self.MEMORY + (place < accepted)
            self._seen[index] = self._seen[index] * self.MEMORY + 1.0

    def took(self, elapsed_ms: float, profiled_ms: float) -> None:
        """A step with such drafts took ``elapsed_ms``, ``profiled_ms`` being its profiled time at the present speed."""
        if elapsed_ms > 0.0 and profiled_ms > 0.0:
            found = max(-1.0, min(1.0, math.log(elapsed_ms / profiled_ms)))
            self._log_ratio += self.FOLLOW * (found - self._log_ratio)

    def _class(self, match: int) -> int:
        return next(place for place, most in enumerate(self.CLASSES) if match <= most)
