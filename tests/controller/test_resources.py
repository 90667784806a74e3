"""Limits of power, energy, battery and GPU are met by depth first, then by pauses; missing and lost sensors."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_controller import Budget, PowerModel, Signals
from balcony_controller.loads.battery import BatteryPlan
from balcony_controller.loads.meter import LoadMeter
from balcony_controller.loads.missing import missing
from balcony_controller.loads.tokens import LEAST, MOST_SAVED_TOKENS, RESERVE_TOKENS, TokenAccount, ease
from balcony_controller.simulation.replay import Run, World, play
from balcony_controller.simulation.traces import Moment, Trace
from helpers.fakes import FULL_MS, governor, records

# A device of 4 W at rest and 14 W while it decodes; full depth takes half a second a token.
POWERED = Trace("powered", [0], [Moment(idle_w=4.0, active_w=14.0)])
SCALE = 40.0


def replay(budget: str, trace: Trace, tokens: int, **options: PowerModel) -> Run:
    world = World(trace, scale=SCALE, period_s=1.0)
    return play(governor(budget, **options), records(), world, tokens)  # type: ignore[arg-type]


def test_a_debt_lowers_what_may_be_spent_and_savings_raise_it() -> None:
    assert ease(-RESERVE_TOKENS) == 1.0
    assert ease(-RESERVE_TOKENS - 3.0) > 1.0 > ease(0.0) > ease(3.0) > ease(60.0) == LEAST


@given(st.lists(st.tuples(st.floats(0.0, 1e4), st.integers(1, 5)), max_size=60))
def test_debts_and_savings_are_bounded(steps: list[tuple[float, int]]) -> None:
    account = TokenAccount(10.0)
    for use, tokens in steps:
        account.charge(use, tokens)
        assert -MOST_SAVED_TOKENS <= account.debt_tokens() <= 50.0
        assert 0.0 < ease(account.debt_tokens()) < 2.0


def test_a_meter_learns_what_decoding_adds() -> None:
    meter = LoadMeter()
    meter.limit = 9.0
    meter.observe(4.0, 0.0)
    for second in range(1, 60):
        busy = 0.3 + 0.5 * (second % 2)
        meter.busy(busy * 1e3)
        meter.observe(4.0 + 10.0 * busy, float(second))
    assert meter.background == pytest.approx(4.0, rel=0.05)
    assert meter.active == pytest.approx(14.0, rel=0.05)


def test_readings_out_of_order_or_without_a_value_change_nothing() -> None:
    meter = LoadMeter()
    meter.limit = 9.0
    meter.observe(4.0, 10.0)
    meter.observe(8.0, 11.0)
    before = (meter.active, meter.background, meter.debt, meter.duty())
    for value, time_s in ((99.0, 5.0), (None, 12.0), (99.0, 11.0)):
        meter.observe(value, time_s)
    assert (meter.active, meter.background, meter.debt, meter.duty()) == before


def test_a_cap_of_10_w_is_met_within_2_percent() -> None:
    run = replay("10W", POWERED, 1500)
    assert run.energy_j / run.time_s == pytest.approx(10.0, rel=0.02)


def test_a_watt_budget_is_met_by_depth_first_then_by_pauses() -> None:
    """Near full depth's power, tokens are as fast as at full depth. Far below, even the shallowest exit must pause."""
    generous, tight = replay("11W", POWERED, 900), replay("5W", POWERED, 400)
    full_ms = FULL_MS * SCALE
    tokens = sum(generous.tokens)
    assert (generous.time_s * 1e3) / tokens == pytest.approx(full_ms, rel=0.1)
    assert generous.agreement(100) > 0.9
    assert set(tight.depth[100:]) == {3}
    assert (tight.time_s * 1e3) / sum(tight.tokens) > 1.5 * full_ms
    assert tight.energy_j / tight.time_s == pytest.approx(5.0, rel=0.02)


def test_a_cap_above_what_the_device_takes_changes_nothing() -> None:
    run = replay("20W", POWERED, 200)
    assert sum(run.pause_ms) == 0.0
    assert all(run.verified)


def test_joules_per_token_are_met_within_2_percent() -> None:
    run = replay("5J", POWERED, 1500)
    tokens, elapsed, _ = run.charged(100)
    assert 14.0 * elapsed.sum() / 1e3 / tokens.sum() == pytest.approx(5.0, rel=0.02)


@pytest.mark.parametrize(("budget", "left"), [("3h", 0.0), ("battery=20%@3h", 0.2)])
def test_a_battery_lasts_for_three_hours_within_2_percent(budget: str, left: float) -> None:
    """Without a budget it would be empty after about two hours."""
    full_wh = 30.0
    trace = Trace("battery", [0], [Moment(idle_w=4.0, active_w=14.0, on_mains=False)], full_wh, full_wh)
    world = World(trace, scale=4 * SCALE, period_s=2.0, end_s=3 * 3600)
    run = play(governor(budget), records(), world, 100_000)
    assert run.time_s == pytest.approx(3 * 3600, rel=0.001)
    assert run.battery_wh == pytest.approx(left * full_wh, abs=0.02 * full_wh)
    assert run.battery_wh > 0


def test_a_share_of_the_gpu_leaves_room_for_others() -> None:
    """Others take 30 %. Under a limit of 60 %, decoding may run three sevenths of the time."""
    meter = LoadMeter()
    meter.limit = 0.6
    meter.observe(0.3, 0.0)
    for second in range(1, 200):
        duty = meter.duty()
        meter.busy(duty * 1e3)
        meter.observe(0.3 + 0.7 * duty, float(second))
    assert meter.duty() == pytest.approx(0.3 / 0.7, rel=0.03)


def test_a_power_model_stands_in_for_a_sensor_and_a_lost_sensor_keeps_its_last_model() -> None:
    blind = Trace("blind", [0], [Moment(idle_w=4.0, active_w=14.0, sensors=False)])
    run = replay("10W", blind, 900, power_model=PowerModel(4.0, 14.0))
    assert run.energy_j / run.time_s == pytest.approx(10.0, rel=0.03)
    moments = [Moment(idle_w=4.0, active_w=14.0), Moment(idle_w=4.0, active_w=14.0, sensors=False)]
    run = replay("10W", Trace("lost", [0, 400], moments), 1200)
    assert run.energy_j / run.time_s == pytest.approx(10.0, rel=0.03)


def test_watts_of_a_battery_follow_what_is_left() -> None:
    plan = BatteryPlan(2.0, 0.2)
    assert plan.limit_w(Signals(battery_energy_wh=20.0)) is None
    first = Signals(time_s=100.0, battery_energy_wh=20.0, battery_level=0.5, battery_power_w=5.0)
    reserve = plan.RESERVE * 20.0
    assert plan.limit_w(first) == pytest.approx((20.0 - 8.0 - reserve) / 2.0)
    later = Signals(time_s=3700.0, battery_energy_wh=16.0, battery_level=0.4, battery_power_w=5.0)
    assert plan.limit_w(later) == pytest.approx(8.0 - reserve)
    assert plan.limit_w(Signals(time_s=3700.0, battery_energy_wh=16.0, battery_level=0.4, on_mains=True)) == math.inf
    assert plan.limit_w(Signals(time_s=7301.0, battery_energy_wh=16.0, battery_level=0.4)) == math.inf


@pytest.mark.parametrize(
    ("budget", "known", "words"),
    [
        ("8W", {}, "power"),
        ("0.4J", {}, "power"),
        ("3h", {"power_w": 5.0}, "Wh"),
        ("3h", {"battery_energy_wh": 20.0}, "battery's power"),
        ("battery=20%@3h", {"battery_energy_wh": 20.0, "power_w": 5.0}, "level"),
        ("gpu=60%", {}, "GPU"),
    ],
)
def test_a_budget_whose_signal_is_missing_says_what_is_missing(
    budget: str, known: dict[str, float], words: str
) -> None:
    found = missing(Budget.parse(budget), Signals(**known))  # type: ignore[arg-type]
    assert len(found) == 1
    assert words in found[0]


def test_a_power_model_is_enough_for_watts_and_joules() -> None:
    assert missing(Budget.parse("8W,0.4J"), Signals(), power_model=True) == []
    assert missing(Budget.parse("8ms,9ms@p95,2s@reply"), Signals()) == []
