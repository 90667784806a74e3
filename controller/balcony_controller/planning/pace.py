"""What tokens took lately."""

from __future__ import annotations

import math


class Pace:
    """A ratio of two sums, milliseconds and tokens, in which what lies back counts less and less.

    ``follow``: how fast it is followed, a share per step. ``most_times``: a single step counts at most so many times
    what its tokens take otherwise; another program was in its way.
    """

    def __init__(self, follow: float = 0.04, most_times: float = math.inf) -> None:
        self._follow, self._most_times = follow, most_times
        self._ms = self._tokens = 0.0

    @property
    def token_ms(self) -> float:
        """Milliseconds a token; infinite before anything was seen."""
        return self._ms / self._tokens if self._tokens > 0.0 else math.inf

    def observe(self, step_ms: float, tokens: int) -> None:
        """A step has taken ``step_ms`` and emitted ``tokens``."""
        if self._tokens > 0.0:
            step_ms = min(step_ms, self._most_times * self.token_ms * tokens)
        self._ms += self._follow * (step_ms - self._ms)
        self._tokens += self._follow * (tokens - self._tokens)
