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
