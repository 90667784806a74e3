"""The opening of a reply: its first tokens, taken deep from savings, where the rest does without full depth.

Deep stages must consume every position before they can be used, but what waits when a reply ends is never paid. So deep
tokens cost least at the beginning: nothing waits there, and none need follow. Over replies a budget buys more agreement
by a deep opening and a shallow rest than by deep passes all along, as far as savings reach: spending may run ahead of
the budget by a few tokens' worth only.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from balcony_controller.loads import LEAST, MOST, ease
from balcony_controller.planning.policy import Policy


class Opener(NamedTuple):
    """How replies open: a policy at one of its rows, what its tokens cost and agree, and what a millisecond buys."""

    policy: Policy
    row: int
    cost_ms: float
    agreement: float
    price: float

    def rest_ms(self, rest: Policy) -> float:
        """What tokens of ``rest`` cost where saving more for openings would lose more than these gain.

        A single exit saves by doing without its head. What others save, what deeper exits would gain, is a forecast.
        """
        return rest.cost_ms[-1] if len(rest.depths) > 1 else rest.cost_ms[rest.row_at(self.price)]


class Opening:
    """How long replies are, how much of one can be opened, and what the rest must save for the next.

    Costs are profiled milliseconds a token; ``rest`` is the policy that goes on after the opening, ``bias`` its true
    over its foretold cost, ``allowed_ms`` what the budget allows on average. Debts are in tokens' worth of the budget.
    """

    # What is put aside by a reply's end, and how far an opening may overspend.
    SAVED_TOKENS = 17.0
    OVERSPENT_TOKENS = 7.0
    # A debt above which a reply is not opened, there would be nothing to spend; and the shortest opening.
    MOST_DEBT_TOKENS = 2.0
    LEAST_OPENED = 4.0
    # Savings that are not there yet are made over so many replies.
    SAVING_REPLIES = 4.0
    # Savings are spread over so many tokens at the least.
    LEAST_LEFT = 16.0
    LENGTH_WEIGHT = 0.2

    def __init__(self) -> None:
        self._mean = math.inf
        self._most = 1
        self._shown = 0
        self._until = 0.0

    def begin(self, remaining: int) -> None:
        """A reply of at most ``remaining`` tokens begins."""
        if self._shown:
            before = self._shown if math.isinf(self._mean) else self._mean
            self._mean = before + self.LENGTH_WEIGHT * (self._shown - before)
        self._shown, self._most = 0, max(1, remaining)

    def count(self, tokens: int) -> None:
        """So many tokens were shown."""
        self._shown += tokens

    @property
    def length(self) -> float:
        """Tokens that the reply is expected to have, by those before."""
        return min(self._most, self._mean)

    def agreement(self, opener: Opener, rest: Policy, bias: float, allowed_ms: float, debt_tokens: float) -> float:
        """Expected agreement of whole replies that begin with a debt; savings to be made first count in part."""
        length, above_ms = self.length, opener.cost_ms - allowed_ms
        rest_ms = opener.rest_ms(rest) * bias
        if above_ms <= 0.0 or rest_ms >= allowed_ms or debt_tokens >= self.MOST_DEBT_TOKENS:
            return rest.agreement_at(allowed_ms / bias)
        lacking_ms = max(0.0, self.SAVED_TOKENS + debt_tokens) * allowed_ms / self.SAVING_REPLIES
        reach = (self.SAVED_TOKENS + self.OVERSPENT_TOKENS) * allowed_ms / above_ms
        spare_ms = length * (allowed_ms - rest_ms) - lacking_ms
        opened = max(0.0, min(reach, spare_ms / (opener.cost_ms - rest_ms)))
        left = length - opened
        rest_agreement = rest.agreement_at((allowed_ms - opened * above_ms / left) / bias)
        return (opened * opener.agreement + left * rest_agreement) / length

    def plan(self, opener: Opener, rest: Policy, bias: float, allowed_ms: float, debt_tokens: float) -> bool:
        """Open the reply that begins so far that savings can be back when it ends; False if that is not worth it."""
        rest_ms = opener.rest_ms(rest) * bias
        spare_ms = self.length * (allowed_ms - rest_ms) - (self.SAVED_TOKENS + debt_tokens) * allowed_ms
        self._until = spare_ms / max(opener.cost_ms - rest_ms, 1e-9)
        return self._until >= self.LEAST_OPENED

    def over(self, debt_tokens: float) -> bool:
        """Whether the opening in progress ends here, ``debt_tokens`` being the debt after one more deep pass."""
        return self._shown >= self._until or debt_tokens > self.OVERSPENT_TOKENS

    def share(self, debt_tokens: float) -> float:
        """The share of its refill that a token of the rest may use, so that savings are there when the reply ends."""
        left = max(self.LEAST_LEFT, self.length - self._shown)
        return 1.0 - (debt_tokens + self.SAVED_TOKENS) / left

    def allowed_share(self, debt_tokens: float) -> float:
        """``share``, within what an account allows: what is owed is paid back first."""
        return max(LEAST, min(MOST, ease(max(0.0, debt_tokens)), self.share(debt_tokens)))
