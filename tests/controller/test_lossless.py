"""Whenever the budget affords lossless decoding, plain or speculative, every token is the full model's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from balcony_controller import StageProfile
from balcony_controller.simulation.replay import World, play
from balcony_controller.simulation.traces import Moment, Trace, shipped
from helpers.fakes import FULL_MS, SHAPE, governor, records

TOKENS = 600
TRACES = pytest.mark.parametrize("trace", shipped(TOKENS), ids=lambda trace: trace.name)


@pytest.fixture(scope="module")
def cheapest_ms() -> float:
    """Milliseconds per token of the cheapest lossless decoding."""
    run = play(governor("full"), records(), World(Trace("steady", [0], [Moment()])), TOKENS)
    return run.mean_ms(100)


@TRACES
def test_a_budget_that_affords_it_at_the_worst_of_times_is_lossless_all_along(trace: Trace, cheapest_ms: float) -> None:
    worst = max(trace.slowdowns(TOKENS))
    assert cheapest_ms < FULL_MS
    run = play(governor(f"{1.1 * cheapest_ms * worst}ms"), records(), World(trace), TOKENS)
    assert all(run.verified)
    assert run.agreed == run.tokens


@TRACES
def test_tokens_that_are_promised_to_be_lossless_are(trace: Trace, cheapest_ms: float) -> None:
    """Under a budget that affords lossless decoding at times, the tokens of those times are the full model's."""
    control = governor(f"{cheapest_ms}ms")
    promised: list[bool] = []
    end_step = control.end_step

    def listen(tokens: int, elapsed_ms: float, charge: bool = True) -> None:
        promised.append(control.lossless)
        end_step(tokens, elapsed_ms, charge)

    control.end_step = listen  # type: ignore[method-assign]
    run = play(control, records(), World(trace), TOKENS)
    assert any(promised)
    for lossless, tokens, agreed, verified in zip(promised, run.tokens, run.agreed, run.verified, strict=True):
        assert agreed == tokens or not lossless
        assert verified or not lossless


def slower_exits(times: float) -> dict[str, StageProfile]:
    """Profiles of a device on which exits take so many times as long."""
    found = dict(records().profiles)
    for name in SHAPE.exits.values():
        found[name] = StageProfile(tuple((count, times * ms) for count, ms in found[name].points))
    return found


@pytest.mark.parametrize("times", [5.0, 8.0, 12.0])
@pytest.mark.parametrize(("budget", "least"), [("full", 0.0), ("8ms", 1.0)], ids=["no budget", "min_agreement"])
@pytest.mark.parametrize("seed", range(3))
def test_drafting_that_does_not_pay_on_this_machine_is_given_up(
    times: float, budget: str, least: float, seed: int
) -> None:
    """The profile promises a gain of a fifth. With all trials, decoding takes at most 2.5 % longer."""
    control = governor(budget, min_agreement=least)
    slow = replace(records(), profiles=slower_exits(times))
    run = play(control, slow, World(Trace("steady", [0], [Moment()]), seed=seed), 3000)
    assert all(run.verified)
    assert run.agreed == run.tokens
    assert run.mean_ms() <= 1.025 * FULL_MS


def test_a_replay_with_trials_is_the_same_every_time() -> None:
    slow = replace(records(), profiles=slower_exits(6.0))
    runs = [play(governor("full"), slow, World(Trace("steady", [0], [Moment()])), 1500) for _ in range(2)]
    assert runs[0] == runs[1]
