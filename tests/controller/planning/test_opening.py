"""Openings: replies that begin deep, paid from savings."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_controller import CostModel
from balcony_controller.planning.library import PolicyLibrary, SolvedPolicies
from balcony_controller.planning.opening import Opening
from balcony_controller.simulation.replay import World, play
from balcony_controller.simulation.traces import Moment, Trace
from helpers.fakes import FULL_MS, SHALLOW_MS, SHAPE, governor, profiles, records

STEADY = Trace("steady", [0], [Moment()])


@pytest.fixture(scope="module")
def library() -> PolicyLibrary:
    return PolicyLibrary(SHAPE, CostModel(profiles()), records().quality(), True, lambda _: 0.0)


def opening(length: int) -> Opening:
    found = Opening()
    found.begin(length)
    return found


def test_the_length_of_a_reply_is_learnt_and_never_above_what_was_asked_for() -> None:
    found = opening(200)
    assert found.length == 200
    found.count(50)
    found.begin(200)
    assert found.length == 50
    found.count(100)
    found.begin(200)
    assert 50 < found.length < 100
    found.begin(20)
    assert found.length == 20


def test_the_opener_gains_most_for_its_cost(library: PolicyLibrary) -> None:
    opener = library.opener()
    assert opener.policy.depths[-1] == SHAPE.full
    assert SHALLOW_MS < opener.cost_ms <= FULL_MS
    least = min(library.solved.mixed, key=lambda policy: policy.cost_ms[-1])
    lossless = library.cheapest_lossless(alone=False)
    bought = (opener.agreement - least.agreement[-1]) / (opener.cost_ms - least.cost_ms[-1])
    assert bought >= (1.0 - least.agreement[-1]) / (lossless.cost_ms[0] - least.cost_ms[-1])


@given(st.floats(SHALLOW_MS * 1.05, FULL_MS * 0.75), st.integers(20, 2000))
def test_an_opening_gains_agreement_and_less_in_longer_replies(
    library: PolicyLibrary, allowed_ms: float, length: int
) -> None:
    opener = library.opener()
    shallow = next(policy for policy in library.solved.mixed if policy.depths == (SHAPE.depths[0],))
    short, long = (
        opening(n).agreement(opener, shallow, 1.0, allowed_ms, -Opening.SAVED_TOKENS) for n in (length, 2 * length)
    )
    assert shallow.agreement[-1] - 1e-9 <= long <= short + 1e-9
    assert short <= 1.0


@given(st.floats(-18.0, 50.0), st.floats(-18.0, 50.0), st.integers(0, 300))
def test_the_larger_the_debt_the_less_the_rest_may_use(first: float, second: float, emitted: int) -> None:
    found = opening(150)
    found.count(emitted)
    low, high = sorted((first, second))
    assert found.share(low) >= found.share(high)
    assert found.share(-found.SAVED_TOKENS) == 1.0


def test_an_opening_ends_as_planned_or_when_the_debt_is_too_large(library: PolicyLibrary) -> None:
    opener, found = library.opener(), opening(150)
    shallow = next(policy for policy in library.solved.mixed if policy.depths == (SHAPE.depths[0],))
    assert found.plan(opener, shallow, 1.0, 7.0, -found.SAVED_TOKENS)
    assert not found.over(0.0)
    assert found.over(found.OVERSPENT_TOKENS + 0.1)
    found.count(150)
    assert found.over(-found.SAVED_TOKENS)
    assert not opening(150).plan(opener, shallow, 1.0, SHALLOW_MS, 0.0)


def test_under_a_low_budget_replies_begin_deep_and_end_shallow() -> None:
    run = play(governor("5.2ms"), records(), World(STEADY), 1500)
    deep, shallow, place = [], [], 0
    for tokens, depth, first in zip(run.tokens, run.depth, run.first, strict=True):
        place = 0 if first else place
        (deep if depth == SHAPE.full else shallow).append(place)
        place += tokens
    assert len(deep) > 20
    assert sum(deep) / len(deep) < 0.5 * sum(shallow) / len(shallow)
    assert run.mean_ms(100) == pytest.approx(5.2, rel=0.012)


def test_limits_without_an_account_have_no_openings() -> None:
    for budget in ("6ms@p95", "0.6s@reply"):
        control = governor(budget)
        control.begin({}, 100)
        assert control._selector._opener is None


def test_what_is_never_caught_up_does_not_bias_the_policy(library: PolicyLibrary) -> None:
    fresh = PolicyLibrary(SHAPE, CostModel(profiles()), records().quality(), True, lambda _: 0.0, library.solved)
    policy = library.solved.mixed[1]
    for _ in range(20):
        fresh.learn(policy, 5.0, 6.0 * 100, 100)
        fresh.learn(policy, 0.0, -100.0, 0)
    assert fresh.bias(policy) == pytest.approx(1.0, abs=1e-6)
    fresh.learn(policy, 5.0, 7.5 * 400, 400)
    assert 1.05 < fresh.bias(policy) < 1.5


def test_solved_policies_are_values() -> None:
    made = [SolvedPolicies.of(SHAPE, CostModel(profiles()), records().quality(), rounds) for rounds in (True, False)]
    assert made[0] == SolvedPolicies.of(SHAPE, CostModel(profiles()), records().quality(), True)
    assert len(made[1].lossless) == 1
    assert all(math.isfinite(policy.cost_ms[0]) for policy in made[1].mixed)
