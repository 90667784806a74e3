"""The contest: baselines and oracles do what their names say, and the controller ranks among them as it should."""

from __future__ import annotations

import math

import pytest

from balcony_controller import FixedDepth, FixedDrafts
from balcony_controller.simulation.baselines import Clairvoyant, StaticMix, Threshold
from balcony_controller.simulation.contest import Contest, _Point, at_cost, contest
from balcony_controller.simulation.replay import World, play
from balcony_controller.simulation.traces import Moment, Trace
from helpers.fakes import FULL_MS, SHALLOW_MS, SHAPE, records

STEADY = Trace("steady", [0], [Moment()])
TOKENS = 600


def test_fixed_exits_stay_where_they_are() -> None:
    for depth in SHAPE.depths:
        run = play(FixedDepth(depth), records(), World(STEADY), 200)
        assert set(run.depth) == {depth}
    assert run.agreement() == 1.0


def test_a_static_mix_takes_its_share_of_deep_tokens() -> None:
    run = play(StaticMix(SHAPE, 3, 0.3), records(), World(STEADY), 2000)
    assert run.depth.count(12) / len(run.depth) == pytest.approx(0.3, abs=0.04)
    assert set(run.depth) == {3, 12}


def test_a_threshold_emits_what_is_sure_and_the_bonus_makes_it_cheaper() -> None:
    runs = {bonus: play(Threshold(3, 0.7, bonus), records(), World(STEADY), 2000).charged() for bonus in (True, False)}
    costs = {bonus: elapsed.sum() / tokens.sum() for bonus, (tokens, elapsed, _) in runs.items()}
    assert costs[True] < costs[False]
    everything = play(Threshold(3, 0.0, False), records(), World(STEADY), 300)
    assert set(everything.depth) == {3}
    nothing = play(Threshold(3, 1.1, False), records(), World(STEADY), 300)
    assert nothing.agreement() == 1.0


def test_rounds_are_lossless() -> None:
    for length in (0, 2, 5):
        assert play(FixedDrafts(3, length), records(), World(STEADY), 300).agreement() == 1.0


def test_the_clairvoyant_follows_its_price() -> None:
    """At a low price it always agrees; at a high price it takes the shallowest exit."""
    cheap = play(Clairvoyant(records(), 1e-6), records(), World(STEADY), 500)
    assert cheap.agreement() == 1.0
    assert cheap.mean_ms() < FULL_MS
    expensive = play(Clairvoyant(records(), 10.0), records(), World(STEADY), 500)
    assert set(expensive.depth) == {3}


def test_curves_are_read_at_a_cost() -> None:
    curve = [_Point(1.0, 0.5), _Point(3.0, 0.9)]
    assert at_cost([curve], 2.0) == pytest.approx(0.7)
    assert at_cost([curve, [_Point(1.5, 0.8)]], 2.0) == 0.8
    assert at_cost([curve], 5.0) == 0.9
    assert math.isnan(at_cost([curve], 0.5))


def test_budgets_lie_where_the_trace_leaves_room() -> None:
    one = Contest(records(), STEADY, TOKENS)
    low, *_, high = one.budgets_ms(4)
    assert low == pytest.approx(1.05 * SHALLOW_MS)
    assert high == pytest.approx(0.95 * FULL_MS)
    hopeless = Trace("hopeless", [0, 500], [Moment(1.0), Moment(30.0)])
    assert Contest(records(), hopeless, TOKENS).budgets_ms(4) == []


@pytest.mark.usefixtures("untraced")
def test_the_controller_among_all() -> None:
    rows = list(contest(records(), [STEADY], ["7.5ms", "9ms"], 1500))
    assert {row.policy for row in rows} == {
        *("controller", "oracle_same_information", "oracle_clairvoyant", "static_mix", "threshold", "lossless"),
        *(f"exit_{depth}" for depth in SHAPE.depths),
    }
    for budget_ms in (7.5, 9.0):
        found = {row.policy: row for row in rows if row.budget_ms == budget_ms}
        control = found["controller"]
        assert control.cost_ms <= 1.01 * budget_ms
        assert control.overspend_tokens is not None
        assert control.overspend_tokens <= 10.0
        assert control.agreement >= 0.99 * found["oracle_same_information"].agreement
        assert control.agreement > found["static_mix"].agreement
        assert control.agreement > found["threshold"].agreement
        assert control.agreement < found["oracle_clairvoyant"].agreement
        assert found["exit_12"].agreement == found["lossless"].agreement == 1.0


def test_a_budget_that_is_no_latency_is_refused() -> None:
    with pytest.raises(ValueError, match="'8W'"):
        list(contest(records(), [STEADY], ["8W"], 300))
