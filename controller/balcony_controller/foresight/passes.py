"""What deep passes over several positions take: by the profile, corrected by what they were seen to take."""

from __future__ import annotations

import math


class PassTimes:
    """The measured time of passes that verify drafts, over the profiled one: ``ratio``."""

    # How fast it is followed, as a logarithm.
    FOLLOW = 0.15

    def __init__(self) -> None:
        self.ratio = 1.0

    def took(self, elapsed_ms: float, profiled_ms: float) -> None:
        """A step with such a pass took ``elapsed_ms``; by the profile, at the present speed, ``profiled_ms``."""
        if elapsed_ms > 0.0 and profiled_ms > 0.0:
            found = max(-1.0, min(1.0, math.log(elapsed_ms / profiled_ms)))
            self.ratio = math.exp((1.0 - self.FOLLOW) * math.log(self.ratio) + self.FOLLOW * found)


class Pace:
    """What tokens took lately: a ratio of two sums in which what lies back counts less and less."""

    # How fast it is followed: a share per step.
    FOLLOW = 0.04

    def __init__(self) -> None:
        self._ms = self._tokens = 0.0

    @property
    def token_ms(self) -> float:
        """Milliseconds a token; infinite before anything was seen."""
        return self._ms / self._tokens if self._tokens > 0.0 else math.inf

    def observe(self, step_ms: float, tokens: int) -> None:
        """A step has taken ``step_ms`` and emitted ``tokens``."""
        self._ms += self.FOLLOW * (step_ms - self._ms)
        self._tokens += self.FOLLOW * (tokens - self._tokens)
