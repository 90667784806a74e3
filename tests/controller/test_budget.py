"""The budget's grammar."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_controller import Budget, BudgetSyntaxError


@given(st.floats(1e-6, 1e6))
def test_text_form_round_trips(latency_ms: float) -> None:
    budget = Budget(latency_ms)
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("text", "latency_ms"),
    [
        ("25ms", 25.0),
        (" 2.5 ms ", 2.5),
        ("40tok/s", 25.0),
        ("0.5MS", 0.5),
        ("1e-3ms", 1e-3),
        ("full", None),
        (None, None),
    ],
)
def test_forms(text: str | None, latency_ms: float | None) -> None:
    assert Budget.parse(text).latency_ms == latency_ms


@pytest.mark.parametrize(
    ("text", "column"), [("25", 2), ("fast", 0), ("", 0), ("25 parsecs", 3), ("0ms", 0), ("-3ms", 0), ("8W", 1)]
)
def test_errors_point_at_the_character_and_list_the_forms(text: str, column: int) -> None:
    with pytest.raises(BudgetSyntaxError, match="40tok/s") as caught:
        Budget.parse(text)
    assert caught.value.column == column


@given(st.text(max_size=12))
def test_any_text_is_a_budget_or_a_clear_error(text: str) -> None:
    try:
        budget = Budget.parse(text)
    except BudgetSyntaxError as error:
        column = error.column
    else:
        column = 0
        assert budget.latency_ms is None or budget.latency_ms > 0
    assert 0 <= column <= len(text)
