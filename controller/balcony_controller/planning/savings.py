"""Savings for the openings of replies: their first tokens are the full model's, and the rest does without full depth.

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

from balcony_controller.loads.tokens import LEAST, MOST, ease


class Savings:
    """Plans openings: how long they are, when they end, and what the rest of a reply must save for the next one."""

    # The savings aimed at for the end of a reply, and the debt at which an opening ends.
    SAVED_TOKENS = 17.0
    OVERSPENT_TOKENS = 7.0
    # With a debt of this or more a reply is not opened: there is nothing to spend.
    MOST_DEBT_TOKENS = 2.0
    # Shorter openings are not made.
    LEAST_OPENED = 4.0
    # What a token must save is at most the missing savings over so many tokens.
    LEAST_LEFT = 16.0

    def __init__(self) -> None:
        self._last = math.inf
        self._most = 1
        self._emitted = 0
        self._until = 0.0

    def begin(self, remaining: int) -> None:
        """A reply of at most ``remaining`` tokens begins."""
        self._last = self._emitted or self._last
        self._emitted, self._most = 0, max(1, remaining)

    def count(self, tokens: int) -> None:
        """So many tokens were emitted."""
        self._emitted += tokens

    @property
    def length(self) -> float:
        """How many tokens the reply is expected to have: as many as the one before it, if so many are asked for."""
        return min(self._most, self._last)

    def opens(self, open_ms: float, rest_ms: float, allowed_ms: float, debt_tokens: float) -> bool:
        """Plan the opening of the reply that begins: as long as the savings can be back when the reply ends.

        ``open_ms``, ``rest_ms``: the cost of its tokens, and the least that of the rest. ``allowed_ms``: what the
        budget allows a token on average. Returns whether the opening is long enough to pay.
        """
        if debt_tokens >= self.MOST_DEBT_TOKENS:
            return False
        spare_ms = self.length * (allowed_ms - rest_ms) - (self.SAVED_TOKENS + debt_tokens) * allowed_ms
        self._until = spare_ms / max(open_ms - rest_ms, 1e-9)
        return self._until >= self.LEAST_OPENED

    def is_over(self, debt_tokens: float) -> bool:
        """Whether the opening in progress ends now; ``debt_tokens``: the debt after one more deep pass."""
        return self._emitted >= self._until or debt_tokens > self.OVERSPENT_TOKENS

    def allowed_share(self, debt_tokens: float) -> float:
        """The factor of its limit that a token of the rest may use, so that savings are there when the reply ends.

        Debts are paid back first, as ``tokens.ease`` does it.
        """
        left = max(self.LEAST_LEFT, self.length - self._emitted)
        share = max(LEAST, min(MOST, 1.0 - (debt_tokens + self.SAVED_TOKENS) / left))
        return min(share, ease(debt_tokens)) if debt_tokens > 0.0 else share
