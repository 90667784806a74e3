"""Whenever the budget affords lossless decoding, plain or speculative, every token is the full model's."""

from __future__ import annotations

import pytest

from balcony_controller.replay import World, play
from balcony_controller.traces import Moment, Trace, shipped
from helpers.fakes import FULL_MS, governor, records

TOKENS = 600
TRACES = pytest.mark.parametrize("trace", shipped(TOKENS), ids=lambda trace: trace.name)


@pytest.fixture(scope="module")
def cheapest_ms() -> float:
    """A token of the cheapest lossless decoding."""
    run = play(governor("full"), records(), World(Trace("steady", [0], [Moment()])), TOKENS)
    return run.mean_ms(100)


@TRACES
def test_a_budget_that_affords_it_at_the_worst_of_times_is_lossless_all_along(trace: Trace, cheapest_ms: float) -> None:
    worst = max(trace.slowdowns(TOKENS))
    assert cheapest_ms < FULL_MS
    run = play(governor(f"{1.1 * cheapest_ms * worst}ms"), records(), World(trace), TOKENS)
    assert all(run.verified)
    assert run.unverified_wrong == 0


@TRACES
def test_whatever_the_budget_what_is_decided_as_lossless_is_so(trace: Trace, cheapest_ms: float) -> None:
    """Budgets that afford it at times: the tokens of those times are the full model's."""
    control = governor(f"{cheapest_ms}ms")
    promised: list[bool] = []
    settle = control.settle

    def listen(tokens: int, elapsed_ms: float, charge: bool = True) -> None:
        promised.append(control.lossless)
        settle(tokens, elapsed_ms, charge)

    control.settle = listen  # type: ignore[method-assign]
    run = play(control, records(), World(trace), TOKENS)
    assert any(promised)
    for lossless, tokens, agreed, verified in zip(promised, run.tokens, run.agreed, run.verified, strict=True):
        assert agreed == tokens or not lossless
        assert verified or not lossless
