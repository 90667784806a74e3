"""The policies that are solved in advance, and the choice among them."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest

from balcony_controller import CostModel
from balcony_controller.planning.features import ALL, Features
from balcony_controller.planning.policy import Policy
from balcony_controller.planning.solved import SolvedPolicies, Wanted
from helpers.fakes import FULL_MS, SHAPE, drafting, governor, profiles, records


def solve(rounds: bool = True, features: Features = ALL) -> SolvedPolicies:
    return SolvedPolicies.of(SHAPE, CostModel(profiles()), records().quality(), rounds, features)


@pytest.fixture(scope="module")
def solved() -> SolvedPolicies:
    return solve()


def nothing_owed(stages: object) -> float:
    return 0.0


def test_solved_policies_are_values(solved: SolvedPolicies) -> None:
    alone = solve(rounds=False)
    assert solved == solve()
    assert len(alone.lossless) == 1
    assert all(math.isfinite(policy.cost_ms[0]) for policy in alone.mixed)


def test_more_budget_never_promises_less(solved: SolvedPolicies) -> None:
    before, last = solved.mixed[0], 0.0
    for step in range(20):
        wanted = Wanted(solved.shallowest_ms + step / 19 * (FULL_MS - solved.shallowest_ms))
        found = solved.best(wanted, before, nothing_owed).agreement_at(wanted.cost_ms)
        assert found >= last - 0.016
        last = found
    assert last == 1.0


def test_a_set_whose_stages_must_catch_up_much_is_left_alone(solved: SolvedPolicies) -> None:
    shallow = next(policy for policy in solved.mixed if policy.depths == SHAPE.depths[:1])

    def best(owed_ms: float, remaining: int) -> Policy:
        wanted = Wanted(0.8 * FULL_MS, remaining=remaining, fresh=False)
        return solved.best(wanted, shallow, lambda stages: owed_ms * (len(list(stages)) > 3))

    assert best(0.0, 10).depths[-1] == SHAPE.full
    assert best(100 * FULL_MS, 10).depths[-1] != SHAPE.full
    assert best(100 * FULL_MS, 10_000).depths[-1] == SHAPE.full


def test_the_least_agreement_rules_sets_out(solved: SolvedPolicies) -> None:
    wanted = Wanted(solved.shallowest_ms, least_agreement=0.99)
    assert solved.best(wanted, solved.mixed[0], nothing_owed).agreement[0] >= 0.99


@pytest.mark.parametrize("name", [one.name for one in fields(Features)])
def test_each_mechanism_can_be_left_out(name: str) -> None:
    """Policies are solved without it, and a governor runs without it."""
    known = drafting(records())
    features = replace(ALL, **{name: False})
    found = SolvedPolicies.of(SHAPE, CostModel(profiles()), known.quality(), True, features)
    assert all((len(policy.depths) < 2 or policy.depths[-1] == SHAPE.full) for policy in found.mixed) or features.pairs
    drafts = [table for policy in found.mixed for tables in policy.to_emit_draft.values() for table in tables]
    assert (max(map(max, drafts)) < -1e8) != features.gate_drafts
    control = governor("8ms", known=known, features=features)
    assert control.policy in found.mixed
