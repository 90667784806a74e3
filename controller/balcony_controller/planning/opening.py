"""The opening of a reply: its first tokens are taken deep, paid from savings, and the rest does without full depth.

Why it pays: deep stages must consume every position before they can be used, but positions that they have not consumed
when a reply ends are never paid for. So deep tokens are cheapest at the beginning of a reply. Nothing has to be caught
up there, and nothing has to be later if the rest of the reply stays shallow. Where the budget does not allow full depth
throughout, a deep opening and a shallow rest give more agreement than deep passes all along.

The limit: the opening overspends, so earlier replies must have saved for it. Savings and overspends are bounded to a
few tokens, and the rest of each reply saves for the next opening.

Costs here are profiled milliseconds per token. Debts are multiples of what the budget allows a token; savings are
negative debts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from balcony_controller.loads import LEAST, MOST, ease
from balcony_controller.planning.policy import Policy


class Opener(NamedTuple):
    """What replies open with: a policy at one of its rows.

    ``cost_ms``, ``agreement``: of its tokens. ``price``: the agreement that it gains over the policy of the rest, for
    each millisecond more that it costs.
    """

    policy: Policy
    row: int
    cost_ms: float
    agreement: float
    price: float

    def rest_ms(self, rest: Policy) -> float:
        """The least that tokens of ``rest`` should cost: saving more for openings would lose more than these gain.

        For a single exit, which saves by leaving out its head, that is its cost at the opener's price. Other policies
        may go down to their cheapest row, because what their deeper exits gain is only a prediction.
        """
        return rest.cost_ms[-1] if len(rest.depths) > 1 else rest.cost_ms[rest.row_at(self.price)]


class Opening:
    """Plans openings: how long they are, when they end, and what the rest of a reply must save for the next one.

    In the methods, ``rest`` is the policy after the opening, ``bias`` its true over its predicted cost, and
    ``allowed_ms`` what the budget allows a token on average.
    """

    # The savings aimed at for the end of a reply, and the debt at which an opening ends.
    SAVED_TOKENS = 17.0
    OVERSPENT_TOKENS = 7.0
    # With a debt of this or more a reply is not opened: there is nothing to spend.
    MOST_DEBT_TOKENS = 2.0
    # Shorter openings are not made.
    LEAST_OPENED = 4.0
    # Savings that are still missing are made over so many replies.
    SAVING_REPLIES = 4.0
    # What a token must save is at most the missing savings over so many tokens.
    LEAST_LEFT = 16.0
    # The weight of the last reply in the mean length of replies.
    LENGTH_WEIGHT = 0.2

    def __init__(self) -> None:
        self._mean = math.inf
        self._most = 1
        self._emitted = 0
        self._until = 0.0

    def begin(self, remaining: int) -> None:
        """A reply of at most ``remaining`` tokens begins."""
        if self._emitted:
            before = self._emitted if math.isinf(self._mean) else self._mean
            self._mean = before + self.LENGTH_WEIGHT * (self._emitted - before)
        self._emitted, self._most = 0, max(1, remaining)

    def count(self, tokens: int) -> None:
        """So many tokens were emitted."""
        self._emitted += tokens

    @property
    def length(self) -> float:
        """How many tokens the reply is expected to have, judging by those before it."""
        return min(self._most, self._mean)

    def agreement(self, opener: Opener, rest: Policy, bias: float, allowed_ms: float, debt_tokens: float) -> float:
        """Expected agreement of whole replies, opened as far as savings allow.

        ``debt_tokens``: the debt when a reply begins. Savings that are missing by then count in part, as they are made
        over several replies.
        """
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
        """Plan the opening of the reply that begins: as long as the savings can be back when the reply ends.

        Returns whether the opening is long enough to pay.
        """
        rest_ms = opener.rest_ms(rest) * bias
        spare_ms = self.length * (allowed_ms - rest_ms) - (self.SAVED_TOKENS + debt_tokens) * allowed_ms
        self._until = spare_ms / max(opener.cost_ms - rest_ms, 1e-9)
        return self._until >= self.LEAST_OPENED

    def over(self, debt_tokens: float) -> bool:
        """Whether the opening in progress ends now; ``debt_tokens`` is the debt after one more deep pass."""
        return self._emitted >= self._until or debt_tokens > self.OVERSPENT_TOKENS

    def share(self, debt_tokens: float) -> float:
        """The factor of its limit that a token of the rest may use, so that savings are there when the reply ends."""
        left = max(self.LEAST_LEFT, self.length - self._emitted)
        return 1.0 - (debt_tokens + self.SAVED_TOKENS) / left

    def allowed_share(self, debt_tokens: float) -> float:
        """``share`` within the bounds of ``loads.ease``: debts are paid back first."""
        return max(LEAST, min(MOST, ease(max(0.0, debt_tokens)), self.share(debt_tokens)))
