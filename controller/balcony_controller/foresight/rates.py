"""How often something is right, by class, learnt while it is seen."""

from __future__ import annotations

from collections.abc import Sequence


class Rates:
    """Shares of right ones among what was seen of each class; what was seen before counts a little less each time.

    ``expected``: by class, what is taken for its share before anything was seen.
    """

    # For how many of a class the expectation counts.
    WEIGHT = 4.0
    # Each one seen of a class makes those before it count a little less: texts change.
    MEMORY = 0.97

    def __init__(self, expected: Sequence[float]) -> None:
        self.chances = list(expected)
        self._seen = [self.WEIGHT] * len(self.chances)

    def learn(self, index: int, is_right: bool) -> None:
        """One of class ``index`` was seen."""
        before = self._seen[index] * self.MEMORY
        self._seen[index] = before + 1.0
        self.chances[index] = (self.chances[index] * before + is_right) / self._seen[index]
