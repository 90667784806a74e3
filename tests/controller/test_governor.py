"""The governor on a fake device: budgets kept, and depth spent where it buys agreement."""

from __future__ import annotations

import math
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_controller import Budget, Confidence, Governor, Outcome, Verdict
from balcony_controller.plan import fixed_cost, make_plan
from balcony_controller.signals import Signals
from helpers.fakes import SHAPE, FakeDevice, governor


def test_no_budget_is_always_full_depth() -> None:
    _, depths = FakeDevice(governor("full")).reply(50)
    assert set(depths) == {SHAPE.full}


def test_a_budget_above_full_depth_is_lossless() -> None:
    _, depths = FakeDevice(governor("15ms")).reply(200)
    assert set(depths) == {SHAPE.full}


def test_a_budget_below_every_exit_takes_the_shallowest() -> None:
    _, depths = FakeDevice(governor("1ms")).reply(100)
    assert set(depths) == {3}


@given(st.floats(6.0, 12.0), st.integers(0, 1000))
def test_the_mean_cost_is_the_budget(budget_ms: float, seed: int) -> None:
    """Between the shallowest exit's cost (about 4.6 ms) and full depth's (about 12.6 ms)."""
    costs, _ = FakeDevice(governor(f"{budget_ms}ms"), seed).reply(400)
    assert mean(costs) == pytest.approx(budget_ms, rel=0.05)


def test_more_budget_is_more_depth() -> None:
    means = [mean(FakeDevice(governor(f"{budget}ms")).reply(300)[1]) for budget in (5.5, 7.0, 9.0, 11.0)]
    assert means == sorted(means)
    assert means[-1] - means[0] > 3


@pytest.mark.parametrize("slowdown", [0.6, 1.7])
def test_a_device_that_is_not_as_profiled_keeps_the_budget(slowdown: float) -> None:
    costs, _ = FakeDevice(governor(f"{8 * slowdown}ms"), slowdown=slowdown).reply(500)
    assert mean(costs) == pytest.approx(8 * slowdown, rel=0.05)


@pytest.mark.parametrize("slowdown", [0.9, 1.12])
def test_a_plan_that_cannot_steer_back_is_made_again(slowdown: float) -> None:
    """A drift too small to notice as such: at full depth's own cost, the plan has nothing else to choose from."""
    device = FakeDevice(governor("13.2ms"))
    device.reply(100)
    device.slowdown = slowdown
    costs, depths = device.reply(400)
    assert mean(costs) <= 13.2 * 1.03
    assert (set(depths) == {SHAPE.full}) == (slowdown < 1)


def test_contention_that_begins_halfway_is_absorbed() -> None:
    device = FakeDevice(governor("9ms"))
    device.reply(200)
    device.slowdown = 1.5
    costs, _ = device.reply(400)
    assert mean(costs) == pytest.approx(9.0, rel=0.05)


def test_the_gate_decides_which_tokens_go_deep() -> None:
    control = governor("8ms")
    device = FakeDevice(control)
    device.reply(50)
    sure, _ = control.stop_at(3, math.log(0.97 / 0.03))
    unsure, _ = control.stop_at(3, math.log(0.2 / 0.8))
    assert sure is None
    assert unsure is not None


def test_a_budget_set_while_tokens_stream_takes_effect_at_once() -> None:
    control = governor("full")
    assert control.first_split() == SHAPE.full
    control.set_budget(Budget.parse("5ms"))
    assert control.first_split() == 3
    control.set_budget(Budget.parse("full"))
    assert control.first_split() == SHAPE.full


def test_plans_leave_out_depths_that_a_budget_cannot_feed() -> None:
    """Every position of a stage in use must be consumed: a long prompt makes rare deep tokens too dear."""
    control = governor("5ms")
    cost, quality = control.cost, control.quality
    pending = {name: 2000 for name, _ in SHAPE.trunk}
    short = make_plan(SHAPE, cost, quality, 9.0, pending={}, remaining=100)
    long = make_plan(SHAPE, cost, quality, 9.0, pending=pending, remaining=100)
    assert short.depths[-1] == SHAPE.full
    assert max(long.depths) < SHAPE.full or long.cost_ms > 9.0


@given(st.floats(3.0, 20.0))
def test_plans_keep_the_budget_where_one_can(budget_ms: float) -> None:
    control = governor("full")
    plan = make_plan(SHAPE, control.cost, control.quality, budget_ms)
    cheapest = fixed_cost(SHAPE, control.cost, (3,))
    assert plan.cost_ms <= max(budget_ms, cheapest) + 1e-9
    assert 0.0 <= plan.agreement <= 1.0


def test_better_plans_for_more_money() -> None:
    control = governor("full")
    agreements = [make_plan(SHAPE, control.cost, control.quality, b).agreement for b in (5, 6, 7, 8, 9, 10, 11, 12, 13)]
    assert agreements == sorted(agreements)
    assert agreements[-1] == 1.0


def test_a_jump_of_load_loosens_the_cost_model() -> None:
    control = governor("8ms")
    control.hear(Signals(gpu_load=0.1))
    before = control.cost.slowdown.variance
    control.hear(Signals(gpu_load=0.15))
    assert control.cost.slowdown.variance == before
    control.hear(Signals(gpu_load=0.9))
    assert control.cost.slowdown.variance > before


def test_the_same_world_gives_the_same_decisions() -> None:
    runs = [FakeDevice(governor("8ms"), seed=5).reply(150) for _ in range(2)]
    assert runs[0] == runs[1]


def test_lossless_rounds_hold_drafts_until_they_are_worth_a_deep_pass() -> None:
    control = governor("full", rounds=True)
    verdicts = []
    for held in range(Governor.MOST_DRAFTS):
        split = control.first_split()
        if split == SHAPE.full:
            break
        assert control.stop_at(split, 2.0)[0] is None
        verdicts.append(control.judge(split, 2.0, Confidence(-0.1, 4.0), held))
        if verdicts[-1] is Verdict.VERIFY:
            break
    assert verdicts[-1] is Verdict.VERIFY
    assert Verdict.EMIT not in verdicts
    control.verified([Outcome(3, control.expected, True)])
    assert control.first_split() == 3
