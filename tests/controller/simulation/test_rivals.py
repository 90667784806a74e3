"""Rivals that learn on line: they do what their names say."""

from __future__ import annotations

import pytest

from balcony_controller.simulation.replay import Run, World, play
from balcony_controller.simulation.rivals import BestRound, LearnedThreshold, OnlineThreshold
from balcony_controller.simulation.traces import Moment, Trace
from helpers.fakes import FULL_MS, SHALLOW_MS, SHAPE, drafting, records

STEADY = Trace("steady", [0], [Moment()])
SLOWER = Trace("slower", [0, 1500], [Moment(), Moment(1.4)])


def played(decider: object, trace: Trace = STEADY, tokens: int = 3000) -> Run:
    return play(decider, records(), World(trace), tokens)  # type: ignore[arg-type]


@pytest.mark.parametrize("trace", [STEADY, SLOWER])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_threshold_tuned_on_line_keeps_a_budget(trace: Trace, share: float) -> None:
    budget_ms = 1.4 * SHALLOW_MS + share * (FULL_MS - 1.4 * SHALLOW_MS)
    run = played(OnlineThreshold(3, budget_ms, 0.05), trace, 4000)
    assert run.mean_ms(100) == pytest.approx(budget_ms, rel=0.03)
    assert set(run.depth) == {3, SHAPE.full}


def test_more_budget_is_more_agreement() -> None:
    found = [played(OnlineThreshold(3, budget_ms, 0.05)).agreement(100) for budget_ms in (5.5, 7.5, 9.5)]
    assert found == sorted(found)
    assert found[0] < found[-1] - 0.05


def test_a_learned_threshold_follows_the_agreement_that_is_wanted() -> None:
    runs = {share: played(LearnedThreshold(3, share)) for share in (0.0, 0.7, 0.9, 1.1)}
    assert set(runs[0.0].depth) == {3}
    assert runs[1.1].agreement() == 1.0
    assert runs[0.7].agreement() < runs[0.9].agreement()
    assert runs[0.7].mean_ms() < runs[0.9].mean_ms()


def test_rounds_by_promise_are_lossless_and_chosen_by_what_was_right_lately() -> None:
    run = played(BestRound(records()))
    assert run.agreement() == 1.0
    assert run.mean_ms(100) <= 1.02 * FULL_MS
    assert max(run.tokens) > 1
    # The same replies again: it begins with what it knows from before.
    again = played(BestRound(drafting(records())))
    assert again.agreement() == 1.0
