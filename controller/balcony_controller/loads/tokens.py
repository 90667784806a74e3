"""The accounts of limits per token, and of single tokens that may be late.

``TokenAccount`` keeps a limit on the mean of tokens (milliseconds, millijoules). ``Tail`` counts the tokens that may be
late. The debt of an account is a virtual queue in the sense of drift-plus-penalty control (Neely, Stochastic Network
Optimization, 2010, ch. 4). The longer the queue, the less the next token may cost. ``ease`` is that dependence.
"""

from __future__ import annotations

# All amounts in tokens are multiples of what the limit allows for one token.
# The savings that accounts steer towards.
RESERVE_TOKENS = 8.0
# How many tokens it takes to work off a difference from the reserve. It is slow on purpose: spending runs ahead in hard
# passages, where depth buys most agreement, and an account that paid back at once would be stingy there.
SOFT_TOKENS = 60.0
# The largest savings and debts that are remembered: old savings must not pay for a long overspend.
MOST_SAVED_TOKENS = 30.0
MOST_OWED_TOKENS = 50.0
# The range of the share of a limit that one token may use.
LEAST, MOST = 0.05, 1.6


def ease(debt_tokens: float) -> float:
    """How much of its limit an account allows the next token to use, as a factor, at a debt of ``debt_tokens``.

    It is 1 at the reserve, above 1 with more savings, below 1 with less, and lies between LEAST and MOST.
    """
    return min(MOST, max(LEAST, 1.0 - (debt_tokens + RESERVE_TOKENS) / SOFT_TOKENS))


class TokenAccount:
    """The account of one limit per token.

    ``refill``: what each emitted token may use, in the limit's unit (ms, mJ). ``debt``: what has been used beyond that,
    in the same unit; negative where less was used.
    """

    def __init__(self, refill: float) -> None:
        self.refill = refill
        self.debt = 0.0

    def charge(self, use: float, tokens: int) -> None:
        """A step has used ``use`` and emitted ``tokens``."""
        debt = self.debt + use - tokens * self.refill
        self.debt = min(max(debt, -MOST_SAVED_TOKENS * self.refill), MOST_OWED_TOKENS * self.refill)

    def debt_tokens(self, owed: float = 0.0) -> float:
        """The debt as a multiple of ``refill``. ``owed`` is added to it: it is due, but not used yet."""
        return (self.debt + owed) / self.refill


class Tail:
    """A limit of ``limit_ms`` that a share ``quantile`` (0..1) of the tokens must keep.

    Every token adds its share of a late one to ``credit``; every late step takes one away.
    """

    MOST_CREDIT = 3.0
    # A predicted time is multiplied by this before it is compared: predictions of single steps are that uncertain.
    MARGIN = 1.1

    def __init__(self, limit_ms: float, quantile: float) -> None:
        self.limit_ms = limit_ms
        self.allowed = 1.0 - quantile
        self.credit = 0.0

    def charge(self, elapsed_ms: float, tokens: int) -> None:
        """A step of ``elapsed_ms`` has emitted ``tokens``. Only the first of them has waited for it."""
        late = 1.0 if elapsed_ms > self.limit_ms else 0.0
        self.credit = min(self.MOST_CREDIT, self.credit + tokens * self.allowed - late)

    def affords(self, step_ms: float) -> bool:
        """Whether the next step may take ``step_ms``."""
        return step_ms <= self.limit_ms or self.credit >= 1.0
