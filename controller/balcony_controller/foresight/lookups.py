"""Drafts that were looked up in the text: how many of them are worth a place in a deep pass.

They cost nothing to make, but each adds a row to the pass that verifies it. How often they are right depends on the
text and on how long the match was; that is learnt while decoding.
"""

from __future__ import annotations

from collections.abc import Callable

from balcony_controller.foresight.rates import Rates
from balcony_controller.verdict import MOST_MATCH, Found


class Lookups:
    """How often drafts are right by the length of their match, and how many of them are worth verifying."""

    # Matches are counted in these classes: up to so many tokens.
    CLASSES = (2, 3, 4, 6, 9, 12, MOST_MATCH)
    # How many of them are expected to be right before anything was seen.
    EXPECTED = (0.35, 0.45, 0.55, 0.65, 0.75, 0.8, 0.85)
    # A pass must promise to be so much cheaper, as a share of what its tokens cost otherwise.
    MARGIN = 0.02

    def __init__(self) -> None:
        self.rates = Rates(self.EXPECTED)

    def chance(self, match: int) -> float:
        """Probability that a draft after a match of so many tokens is right."""
        return self.rates.chances[self._class(match)]

    def best(self, found: Found, token_ms: float, pass_ms: Callable[[int], float]) -> int:
        """How many drafts to verify; 0 if that gains nothing.

        ``token_ms``: what a token costs otherwise. ``pass_ms``: what a deep pass over so many drafts costs.
        """
        if not found.drafts:
            return 0
        expected, prefix, best, most = 1.0, 1.0, 0, 0.0
        for count in range(1, found.drafts + 1):
            prefix *= self.chance(min(found.match + count - 1, MOST_MATCH))
            expected += prefix
            gain = expected * token_ms * (1.0 - self.MARGIN) - pass_ms(count)
            if gain > most:
                best, most = count, gain
            if prefix < 0.05:
                break
        return best

    def learn(self, found: Found, checked: int, accepted: int) -> None:
        """Of the drafts after ``found``, ``checked`` were compared with the full model's; the first were right."""
        for place in range(checked):
            self.rates.learn(self._class(min(found.match + place, MOST_MATCH)), place < accepted)

    def _class(self, match: int) -> int:
        return next(place for place, most in enumerate(self.CLASSES) if match <= most)
