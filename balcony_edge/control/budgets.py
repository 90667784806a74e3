"""Budgets and least agreements as users write them, read and checked."""

from __future__ import annotations

from balcony_controller import Budget, BudgetSyntaxError
from balcony_edge.errors import BudgetError


def parse_budget(budget: str | Budget | None) -> Budget:
    """A budget from its text. Raises BudgetError, which points at what cannot be read."""
    try:
        return Budget.parse(budget)
    except BudgetSyntaxError as error:
        raise BudgetError(str(error), "for example --budget 25ms") from error


def check_agreement(least: float) -> None:
    """Raise BudgetError unless ``least`` is a share."""
    if not 0.0 <= least <= 1.0:
        raise BudgetError(f"an agreement of at least {least} makes no sense", "--min-agreement 0.9")
