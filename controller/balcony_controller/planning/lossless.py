"""Which lossless policy is the fastest here, by the clock: plain full depth, or rounds through some exit.

Profiled costs say which one to begin with. They can be wrong: the device may have been busy while stages were profiled,
they leave out our own code, and how many drafts are right depends on the text. So now and then another policy decodes
some tokens, and its time for a token is compared with the time that the best one takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from balcony_controller.planning.pace import Pace
from balcony_controller.planning.policy import Policy


class LosslessChoice:
    """``now``: the policy to use, which is ``best`` unless another is tried.

    ``policies``: the first is full depth alone.
    """

    # A trial takes so many tokens. The first begins after FIRST_WAIT tokens; each time that the other policy loses, it
    # waits LONGER times as long, up to LAST_WAIT.
    TRIED_TOKENS = 32
    FIRST_WAIT, LONGER, LAST_WAIT = 48, 8, 4096
    # Rounds are taken if their tokens take less than so many times the time, plain full depth if its tokens take less:
    # lossless decoding must never be slower than that. A trial ends early if after SOON tokens they take more than
    # CLEARLY times the time.
    TAKE = 0.97
    SOON, CLEARLY = 8, 1.15
    # How fast what tokens take is followed, and how many times that a single step counts at most (see Pace).
    FOLLOW, MOST_TIMES = 1.0 / 64.0, 3.0

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._plain = policies[0]
        self._rounds = min(policies[1:], key=lambda policy: policy.cost_ms[0], default=None)
        self.best = min(policies, key=lambda policy: policy.cost_ms[0])
        self.now = self.best
        self._wait = self.FIRST_WAIT
        self._last: Policy | None = None
        # Tokens since the last trial began or ended, and what they took: of the best policy, and of the other.
        self._tokens = 0
        self._usual, self._tried = self._new_pace(), self._new_pace()

    def interrupt(self) -> None:
        """Tokens that are not lossless come between: a trial in progress is given up."""
        if self.now is not self.best:
            self.now = self.best
            self._clear()
        self._last = None

    def restart(self) -> None:
        """Everything takes another time from now on: forget what tokens took. A trial in progress is given up."""
        self.interrupt()
        self._clear()

    @property
    def due(self) -> Policy | None:
        """The policy that should be tried now; None if it is not yet time for a trial."""
        is_time = self.now is self.best and self._tokens >= self._wait
        return self._other if is_time else None

    def begin_trial(self) -> None:
        """Try the policy that is ``due``."""
        if (other := self.due) is not None:
            self.now, self._tokens = other, 0

    @property
    def _other(self) -> Policy | None:
        return self._rounds if self.best is self._plain else self._plain

    def spent(self, policy: Policy, elapsed_ms: float, tokens: int) -> None:
        """A step of ``policy`` has emitted ``tokens`` and taken ``elapsed_ms`` by the clock, our own code included."""
        if policy is not self.now:
            return
        # The first step after a change also catches up what the other policy has left.
        is_steady, self._last = policy is self._last, policy
        self._tokens += tokens
        is_tried = policy is not self.best
        if is_steady:
            (self._tried if is_tried else self._usual).observe(elapsed_ms, tokens)
        if not (is_tried and is_steady):
            return
        usual_ms, tried_ms = self._usual.token_ms, self._tried.token_ms
        if usual_ms == math.inf:
            # Nothing to compare with: the trial is lost.
            usual_ms = 0.0
        if self._tokens >= (self.SOON if tried_ms > self.CLEARLY * usual_ms else self.TRIED_TOKENS):
            self._conclude(tried_ms < (1.0 if self.now is self._plain else self.TAKE) * usual_ms)

    def _conclude(self, is_faster: bool) -> None:
        if is_faster:
            self.best, self._wait = self.now, self.FIRST_WAIT
        else:
            self._wait = min(self.LONGER * self._wait, self.LAST_WAIT)
        self.now = self.best
        self._clear()

    def _clear(self) -> None:
        self._tokens = 0
        self._usual, self._tried = self._new_pace(), self._new_pace()

    def _new_pace(self) -> Pace:
        return Pace(self.FOLLOW, self.MOST_TIMES)
