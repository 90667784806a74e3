"""A limit on temperature is kept ahead of time, by a model of the heat that is fitted while the device runs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_controller import Budget, Limits, Signals
from balcony_controller.accounts import Accounts
from balcony_controller.loads.heat import HeatPlan
from balcony_controller.loads.meter import LoadMeter


def warm_up(plan: HeatPlan, degrees_a_watt: float, time_constant_s: float, watts: list[float], each_s: int) -> float:
    """Feed the plan a board of 30 °C surroundings, a reading a second; returns its last temperature."""
    at_s, now_c = 0.0, 30.0 + degrees_a_watt * watts[0]
    for power_w in watts:
        for _ in range(each_s):
            final_c = 30.0 + degrees_a_watt * power_w
            now_c = final_c + (now_c - final_c) * math.exp(-1.0 / time_constant_s)
            at_s += 1.0
            plan.observe(round(2 * now_c) / 2, power_w, at_s)
    return now_c


@given(st.floats(1.5, 5.0), st.floats(25.0, 200.0))
def test_the_model_is_found(degrees_a_watt: float, time_constant_s: float) -> None:
    plan = HeatPlan(85.0)
    warm_up(plan, degrees_a_watt, time_constant_s, [4.0, 14.0, 5.0, 12.0, 6.0, 14.0], 150)
    assert plan.degrees_a_watt == pytest.approx(degrees_a_watt, rel=0.2)
    assert plan.time_constant_s == pytest.approx(time_constant_s, rel=0.35)


def test_the_watts_allowed_hold_the_temperature_below_the_limit() -> None:
    plan = HeatPlan(70.0)
    now_c, hottest_c = 40.0, 0.0
    for second in range(1200):
        allowed_w = plan.limit_w(now_c)
        power_w = min(25.0, 25.0 if allowed_w is None else allowed_w)
        final_c = 30.0 + 2.0 * power_w
        now_c = final_c + (now_c - final_c) * math.exp(-1.0 / 50.0)
        hottest_c = max(hottest_c, now_c)
        plan.observe(round(2 * now_c) / 2, power_w, float(second))
    assert hottest_c <= 70.0
    # No more is given up than that: 25 W would lead to 80 °C, 20 W to the limit.
    assert now_c == pytest.approx(69.0, abs=0.7)


def test_a_cool_device_may_have_all_the_watts_that_it_wants() -> None:
    plan = HeatPlan(85.0)
    warm_up(plan, 2.0, 60.0, [4.0, 8.0], 60)
    assert (plan.limit_w(45.0) or 0.0) > 100.0


def test_nothing_is_guessed_without_readings() -> None:
    plan = HeatPlan(85.0)
    assert plan.limit_w(50.0) is None
    for reading in ((None, 5.0, 1.0), (50.0, None, 1.0), (50.0, 5.0, None)):
        plan.observe(*reading)
    assert plan.limit_w(50.0) is None
    plan.observe(50.0, 5.0, 1.0)
    assert plan.limit_w(None) is None
    assert plan.limit_w(50.0) is not None


@given(st.lists(st.tuples(st.floats(-40, 150), st.floats(0, 1e4), st.floats(-1e6, 1e6)), max_size=40))
def test_whatever_sensors_say_the_limit_is_a_number(readings: list[tuple[float, float, float]]) -> None:
    plan = HeatPlan(85.0)
    for temperature_c, power_w, time_s in readings:
        plan.observe(temperature_c, power_w, time_s)
        limit_w = plan.limit_w(temperature_c)
        assert limit_w is not None
        assert math.isfinite(limit_w)
        assert limit_w >= 0.0


def test_heat_and_a_budget_of_watts_hold_together() -> None:
    heat = HeatPlan(60.0)
    books = Accounts(Budget.parse("12W"), Limits(temperature_c=60.0), LoadMeter(), LoadMeter(), heat)
    books.observe_signals(Signals(time_s=0.0, temperature_c=40.0, power_w=5.0))
    assert books.power.limit == 12.0
    books.observe_signals(Signals(time_s=5.0, temperature_c=59.0, power_w=12.0))
    assert books.power.limit < 12.0
    # Power that nobody tells any more changes nothing.
    before = books.power.limit
    books.observe_signals(Signals(time_s=10.0, temperature_c=None, power_w=None))
    assert books.power.limit == 12.0 or books.power.limit == before
