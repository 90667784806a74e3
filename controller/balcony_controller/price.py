"""The price of a millisecond: a virtual queue of overspend (drift-plus-penalty, Neely)."""

from __future__ import annotations


class VirtualQueue:
    """Overspend in milliseconds, and the price that its length sets.

    The queue starts at a place-holder length, at which the price is the plan's; each millisecond over the budget
    lengthens it, each one saved shortens it. What is saved below length zero is not kept: there the price is zero and
    tokens go to full depth anyway.
    """

    # Place-holder length and the longest overspend that is remembered, in budgets of a token.
    PLACEHOLDER_TOKENS = 4.0
    LONGEST_TOKENS = 50.0

    def __init__(self, budget_ms: float, plan_price: float = 0.0, reference_price: float = 1.0) -> None:
        self.budget_ms = budget_ms
        self.overspend_ms = 0.0
        self._scale_ms = self.PLACEHOLDER_TOKENS * budget_ms
        self.retune(plan_price, reference_price)

    def retune(self, plan_price: float, reference_price: float) -> None:
        """A new plan: keep the overspend, move the place-holder. A plan at price zero learns its price on overspend."""
        self._reference = plan_price if plan_price > 0 else reference_price
        self._placeholder_ms = self._scale_ms if plan_price > 0 else 0.0
        self.overspend_ms = max(self.overspend_ms, -self._placeholder_ms)

    @property
    def price(self) -> float:
        """Agreement that one millisecond must buy."""
        return self._reference * (self._placeholder_ms + self.overspend_ms) / self._scale_ms

    def settle(self, cost_ms: float) -> None:
        """A token has cost ``cost_ms``."""
        overspend = self.overspend_ms + cost_ms - self.budget_ms
        self.overspend_ms = min(max(overspend, -self._placeholder_ms), self.LONGEST_TOKENS * self.budget_ms)
