"""A simulated board: clocks change time and watts, heat builds up, and the controller is played on it."""

from __future__ import annotations

import itertools
import math

import pytest

from balcony_controller import Budget, Clock, ClockChoice, CostModel, FixedDepth, Governor, Limits
from balcony_controller.loads.meter import PowerModel
from balcony_controller.planning.features import ALL, Features
from balcony_controller.simulation.board import Board, BoardState, Body
from balcony_controller.simulation.replay import Run, World, play
from balcony_controller.simulation.traces import Moment, Trace
from helpers.fakes import FULL_MS, records

FAST, SLOW = Clock("fast", 1.0, PowerModel(4.0, 20.0)), Clock("slow", 1.25, PowerModel(3.0, 10.0))
# Full depth takes half a second a token.
SCALE = 500.0 / FULL_MS
TOKENS = 900


def run(budget: str, *, clocks: bool, body: Body | None = None, features: Features = ALL, limit_c: float = 1e3) -> Run:
    """Replay under a budget, beginning at the fast clock."""
    known = records()
    cost = CostModel(known.profiles)
    cost.slowdown.move(SCALE)
    governor = Governor(
        known.shape,
        cost,
        known.quality(),
        Budget.parse(budget),
        rounds=True,
        limits=Limits(temperature_c=limit_c),
        clocks=ClockChoice([FAST, SLOW], 0) if clocks else None,
        features=features,
    )
    world = World(Trace("steady", [0], [Moment()]), scale=SCALE, board=Board([FAST, SLOW], 0, body))
    return play(governor, known, world, TOKENS)


def joules(found: Run) -> float:
    return found.energy_j / sum(found.tokens)


def test_a_slow_clock_makes_tokens_slower_and_takes_its_own_watts() -> None:
    known, steady = records(), Trace("steady", [0], [Moment()])
    fast, slow = (
        play(FixedDepth(known.shape.full), known, World(steady, noise=0.0, board=Board([FAST, SLOW], clock)), 200)
        for clock in (0, 1)
    )
    assert slow.time_s == pytest.approx(1.25 * fast.time_s, rel=1e-6)
    assert fast.energy_j == pytest.approx(20.0 * fast.time_s, rel=1e-6)
    assert slow.energy_j == pytest.approx(10.0 * slow.time_s, rel=1e-6)


def test_where_lossless_tokens_are_affordable_anyhow_joules_are_saved() -> None:
    alone, both = run("800ms", clocks=False), run("800ms", clocks=True)
    assert both.agreement(100) == alone.agreement(100) == 1.0
    assert both.mean_ms(100) <= 800.0
    assert joules(both) < 0.7 * joules(alone)


def test_where_time_is_short_the_fast_clock_stays() -> None:
    found = run("300ms", clocks=True)
    assert set(found.clock) == {0}
    assert found.mean_ms(100) <= 1.02 * 300.0


def test_joules_buy_more_agreement_with_a_clock_than_without() -> None:
    alone, both = run("5J", clocks=False), run("5J", clocks=True)
    assert both.agreement(100) > alone.agreement(100) + 0.02
    assert joules(both) <= 1.02 * 5.0


def test_watts_are_kept_by_the_clock_before_the_pace_is_given_up() -> None:
    alone, both = run("10W", clocks=False), run("10W", clocks=True)
    for found in (alone, both):
        assert found.energy_j / found.time_s <= 1.03 * 10.0
    # Both keep the pace of full depth at the fast clock: half a second a token.
    assert both.time_s == pytest.approx(alone.time_s, rel=0.05)
    assert both.agreement(100) > alone.agreement(100) + 0.03


def test_a_board_throttles_when_it_is_hot_until_it_is_cooler() -> None:
    body = Body(surroundings_c=30.0, degrees_a_watt=4.0, time_constant_s=10.0, throttle_c=80.0, cooler_c=5.0)
    board = BoardState(Board([FAST], 0, body))
    seen = []
    for _ in range(400):
        board.pass_time(0.5, board.watts(busy=True))
        seen.append((board.throttled, board.temperature_c or 0.0, board.time_factor))
    assert seen[0][0] is False
    assert {factor for throttled, _, factor in seen if throttled} == {body.throttled_time}
    assert max(now_c for _, now_c, _ in seen) < 82.0
    # It comes and goes.
    assert sum(a[0] != b[0] for a, b in itertools.pairwise(seen)) > 4
    assert 0.0 < board.throttled_s < 200.0


def test_heat_is_held_down_ahead_of_time_rather_than_cut() -> None:
    body = Body(surroundings_c=40.0, degrees_a_watt=2.4, time_constant_s=60.0, throttle_c=75.0)
    warm = {"clocks": False, "body": body, "limit_c": 73.0}
    free = run("500ms", clocks=False, body=body)
    reacting = run("500ms", **warm, features=Features(heat=False))  # type: ignore[arg-type]
    ahead = run("500ms", **warm)  # type: ignore[arg-type]
    with_clocks = run("500ms", clocks=True, body=body, limit_c=73.0)
    assert free.throttled_s > 0.0 == ahead.throttled_s == with_clocks.throttled_s
    assert (ahead.hottest_c or math.inf) < 74.0
    assert ahead.agreement(100) > reacting.agreement(100)
    assert with_clocks.agreement(100) > ahead.agreement(100)


def test_recovery_is_counted_from_when_the_mean_fits_again() -> None:
    found = Run(
        tokens=[1] * 400, elapsed_ms=[1.0] * 100 + [3.0] * 20 + [0.9] * 280, agreed=[1] * 400, first=[False] * 400
    )
    # 60 tokens of which so many took 3 ms fit in 1 ms a token once these are at most 2.
    assert found.recovery_tokens(1.0, 100) == 18.0
    assert found.recovery_tokens(1.0, 0) == 0.0
    assert found.recovery_tokens(0.5, 100) == math.inf
