"""A budget that no depth keeps is told before the first token, with the nearest one that can be kept."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_controller import Budget, PowerModel
from balcony_edge.control.keepable import _rounded_up, shortfall
from helpers.fakes import SHALLOW_MS, governor


@pytest.mark.parametrize("budget", ["full", "5ms", "200tok/s", "6ms@p95", "0.1s@reply", "8W", "50ms,8W"])
def test_budgets_that_can_be_kept_are_not_talked_about(budget: str) -> None:
    assert shortfall(governor(budget)) is None


@pytest.mark.parametrize(
    ("budget", "nearest"), [("2ms", "ms"), ("1000tok/s", "ms"), ("2ms@p90", "ms@p90"), ("8W,2ms", "ms")]
)
def test_the_nearest_budget_is_named_and_can_be_kept(budget: str, nearest: str) -> None:
    said = shortfall(governor(budget))
    assert said is not None
    assert f"takes {SHALLOW_MS:.3g} ms here" in said
    found = re.search(r"--budget (\S+)$", said)
    assert found is not None
    assert found[1].endswith(nearest)
    assert shortfall(governor(found[1])) is None
    limit_ms = Budget.parse(found[1]).latency_ms or Budget.parse(found[1]).tail_ms
    assert limit_ms is not None
    assert SHALLOW_MS < limit_ms < 1.2 * SHALLOW_MS


def test_joules_are_told_where_watts_are_known() -> None:
    assert shortfall(governor("0.01J")) is None
    said = shortfall(governor("0.01J", power_model=PowerModel(4.0, 14.0)))
    assert said is not None
    assert "takes 0.063 J here" in said
    assert said.endswith("--budget 0.067J")


def test_a_slow_device_needs_more() -> None:
    control = governor("6ms")
    for _ in range(50):
        control.cost.observe(profiled_ms=1.0, graphs_ms=2.0, step_ms=2.0, tokens=1)
    said = shortfall(control)
    assert said is not None
    assert f"takes {2 * SHALLOW_MS:.2g}" in said


@given(st.floats(1e-6, 1e6))
def test_rounding_up_never_rounds_down_and_hardly_up(value: float) -> None:
    assert value * (1 - 1e-6) <= float(_rounded_up(value)) <= 1.11 * value
