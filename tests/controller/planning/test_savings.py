"""Openings: replies that begin with the full model's tokens, paid from savings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_controller import Governor
from balcony_controller.planning.modes import Lossless, Mixed, Opening
from balcony_controller.planning.savings import Savings
from balcony_controller.shape import HEAD
from balcony_controller.simulation.replay import World, play
from balcony_controller.simulation.traces import Moment, Trace
from helpers.fakes import FULL_MS, SHALLOW_MS, SHAPE, governor, profiles, records

STEADY = Trace("steady", [0], [Moment()])


def saving(length: int) -> Savings:
    found = Savings()
    found.begin(length)
    return found


def test_the_length_of_a_reply_is_learnt_and_never_above_what_was_asked_for() -> None:
    found = saving(200)
    assert found.length == 200
    found.count(50)
    found.begin(200)
    assert found.length == 50
    found.count(100)
    found.begin(200)
    assert found.length == 100
    found.begin(20)
    assert found.length == 20


@given(st.floats(-18.0, 50.0), st.floats(-18.0, 50.0), st.integers(0, 300))
def test_the_larger_the_debt_the_less_the_rest_may_use(first: float, second: float, emitted: int) -> None:
    found = saving(150)
    found.count(emitted)
    low, high = sorted((first, second))
    assert found.allowed_share(low) >= found.allowed_share(high)
    assert found.allowed_share(-found.SAVED_TOKENS) == 1.0


def test_an_opening_ends_as_planned_or_when_the_debt_is_too_large() -> None:
    found = saving(150)
    assert found.opens(FULL_MS, SHALLOW_MS, 7.0, -found.SAVED_TOKENS)
    assert not found.is_over(0.0)
    assert found.is_over(found.OVERSPENT_TOKENS + 0.1)
    found.count(150)
    assert found.is_over(-found.SAVED_TOKENS)
    assert not saving(150).opens(FULL_MS, SHALLOW_MS, SHALLOW_MS, 0.0)
    assert not saving(150).opens(FULL_MS, SHALLOW_MS, 7.0, found.MOST_DEBT_TOKENS)


def test_under_a_low_budget_replies_begin_deep_and_end_shallow() -> None:
    run = play(governor("5.2ms"), records(), World(STEADY), 1500)
    deep, shallow, place = [], [], 0
    for tokens, depth, first in zip(run.tokens, run.depth, run.first, strict=True):
        place = 0 if first else place
        (deep if depth == SHAPE.full else shallow).append(place)
        place += tokens
    assert len(deep) > 20
    assert sum(deep) / len(deep) < 0.5 * sum(shallow) / len(shallow)
    assert run.mean_ms(100) == pytest.approx(5.2, rel=0.02)


def test_limits_without_an_account_have_no_openings() -> None:
    for budget in ("6ms@p95", "0.6s@reply"):
        control = governor(budget)
        control.begin({}, 100)
        assert isinstance(control.mode, Mixed)


def step(control: Governor, depth: int, times: float = 1.0) -> None:
    """A token of ``depth``, which takes so many times what the profile says."""
    took_ms = 0.0
    for name in [*SHAPE.stages(depth), HEAD]:
        profiled_ms = profiles()[name].ms(1)
        control.observe_run(name, 1, profiled_ms)
        took_ms += profiled_ms
    control.end_step(1, times * took_ms)


def test_modes_follow_the_budget() -> None:
    """From lossless to savings, to an opening and its end, and back."""
    control = governor(f"{2 * FULL_MS}ms")
    control.begin({}, 400)
    assert isinstance(control.mode, Lossless)
    assert control.lossless
    step(control, SHAPE.full)
    control.set_budget(governor("5.2ms").budget)
    assert isinstance(control.mode, Mixed)
    assert not control.lossless
    for _ in range(300):
        step(control, SHAPE.depths[0], 0.9)
    control.begin({}, 400)
    assert isinstance(control.mode, Opening)
    assert control.lossless
    for _ in range(60):
        step(control, SHAPE.full)
    assert isinstance(control.mode, Mixed)
    control.set_budget(governor("full").budget)
    assert isinstance(control.mode, Lossless)


def test_a_single_reply_saves_nothing_for_others() -> None:
    known = records(1, 300)
    budget_ms = 5.5
    run = play(governor(f"{budget_ms}ms"), known, World(STEADY), 300)
    # The reserve alone, 8 tokens' worth of 300, is kept back.
    assert run.mean_ms() >= 0.96 * budget_ms
