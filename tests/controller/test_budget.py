"""The budget's grammar."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_controller import Budget, BudgetSyntaxError

amounts = st.floats(1e-3, 1e6)
shares = st.integers(1, 9999).map(lambda parts: parts / 10_000)


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    """Any combination of limits."""

    def maybe(strategy: st.SearchStrategy[float]) -> float | None:
        return draw(st.none() | strategy)

    tail_ms, battery_h = maybe(amounts), maybe(amounts)
    return Budget(
        latency_ms=maybe(amounts),
        tail_ms=tail_ms,
        tail_quantile=draw(shares) if tail_ms else 0.95,
        reply_s=maybe(amounts),
        power_w=maybe(amounts),
        energy_j=maybe(amounts),
        battery_h=battery_h,
        battery_floor=draw(st.just(0.0) | shares) if battery_h else 0.0,
        gpu_share=maybe(shares),
    )


@given(budgets())
def test_the_canonical_text_round_trips(budget: Budget) -> None:
    assert Budget.parse(str(budget)) == budget
    assert Budget.parse(str(budget).upper()) == budget


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("25ms", Budget(25.0)),
        (" 2.5 ms ", Budget(2.5)),
        ("40tok/s", Budget(25.0)),
        ("0.5MS", Budget(0.5)),
        ("1e-3ms", Budget(1e-3)),
        ("25ms@p95", Budget(tail_ms=25.0)),
        ("0.03s@p99.9", Budget(tail_ms=30.0, tail_quantile=0.999)),
        ("2s@reply", Budget(reply_s=2.0)),
        ("8W", Budget(power_w=8.0)),
        ("500mW", Budget(power_w=0.5)),
        ("0.4J", Budget(energy_j=0.4)),
        ("3h", Budget(battery_h=3.0)),
        ("90min", Budget(battery_h=1.5)),
        ("battery=20%@3h", Budget(battery_h=3.0, battery_floor=0.2)),
        ("gpu = 60 %", Budget(gpu_share=0.6)),
        ("25ms, 8W", Budget(25.0, power_w=8.0)),
        ("25ms@p95,25ms", Budget(25.0, tail_ms=25.0)),
        ("full", Budget()),
        (None, Budget()),
    ],
)
def test_forms(text: str | None, budget: Budget) -> None:
    assert Budget.parse(text) == budget


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (Budget(25.0, power_w=8.0), "25ms,8W"),
        (Budget(tail_ms=25.0, tail_quantile=0.999), "25ms@p99.9"),
        (Budget(battery_h=1.5, battery_floor=0.333), "battery=33.3%@1.5h"),
        (Budget(), "full"),
    ],
)
def test_canonical_text_is_short(budget: Budget, text: str) -> None:
    assert str(budget) == text


@pytest.mark.parametrize(
    ("text", "column", "why"),
    [
        ("25", 2, "unit is missing"),
        ("fast", 0, "number is expected"),
        ("", 0, "number is expected"),
        ("25 parsecs", 3, "unknown unit 'parsecs'"),
        ("0ms", 0, "above zero"),
        ("-3ms", 0, "number is expected"),
        ("25ms,", 5, "number is expected"),
        ("25ms,30ms", 5, "already given"),
        ("25ms 8W", 5, "comma"),
        ("3s", 1, "2s@reply"),
        ("25ms@soon", 5, "p95"),
        ("25ms@p100", 5, "p95"),
        ("gpu=60", 6, "unit is missing"),
        ("gpu=160%", 4, "more than 100"),
        ("gpu=8W", 4, "percentage"),
        ("battery=20%", 11, "battery=20%@3h"),
        ("battery=100%@3h", 8, "stay full"),
        ("battery=20%@8W", 12, "a time"),
        ("60%", 0, "gpu=60%"),
        ("1e999ms", 0, "above zero"),
    ],
)
def test_errors_point_at_the_character_and_list_the_forms(text: str, column: int, why: str) -> None:
    with pytest.raises(BudgetSyntaxError, match="40tok/s") as caught:
        Budget.parse(text)
    assert caught.value.column == column
    assert why in str(caught.value)
    shown, pointer = str(caught.value).splitlines()[1:3]
    assert shown == f"    {text}"
    assert pointer.index("^") == 4 + column


@given(st.text(max_size=12))
def test_any_text_is_a_budget_or_a_clear_error(text: str) -> None:
    try:
        budget = Budget.parse(text)
    except BudgetSyntaxError as error:
        column = error.column
    else:
        column = 0
        assert Budget.parse(str(budget)) == budget
    assert 0 <= column <= len(text)
