"""Drafts of gates: held in rounds, or shown without asking the head, wherever that buys more."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest

from balcony_controller import Confidence, Governor, Limits, Signals, Verdict
from balcony_controller.shape import HEAD
from balcony_controller.simulation.records import Records
from balcony_controller.simulation.replay import Run, World, play
from balcony_controller.simulation.traces import Moment, Trace, shipped
from helpers.fakes import FULL_MS, SHAPE, drafting, governor, profile, records

TOKENS = 600


class Judged(NamedTuple):
    """One judgement: whether it was of a gate's draft, while the governor was lossless, and with what result."""

    gate: float | None
    peeked: bool
    lossless: bool
    verdict: Verdict
    expected: float


def dear_head() -> Records:
    """Gates that give drafts, and a head that costs as much as two layers and a half, as with a large vocabulary."""
    return replace(drafting(records()), profiles={**records().profiles, HEAD: profile(2.4, 0.1)})


def headed() -> Records:
    """The same without drafts."""
    return replace(records(), profiles=dear_head().profiles)


def steady(control: Governor, known: Records, tokens: int = TOKENS) -> Run:
    return play(control, known, World(Trace("steady", [0], [Moment()])), tokens)


def listen(control: Governor) -> list[Judged]:
    """Everything that is judged from now on."""
    heard: list[Judged] = []
    judge = control.judge

    def listening(depth: int, gate: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        verdict = judge(depth, gate, confidence, held)
        heard.append(Judged(gate, confidence is None, control.lossless, verdict, control.expected))
        return verdict

    control.judge = listening  # type: ignore[method-assign]
    return heard


def test_rounds_spare_the_head() -> None:
    """As often right within a twentieth, they are the cheaper ones, in what is foretold and in what is spent."""
    peeking, asking = governor("full", known=dear_head()), governor("full", known=headed())
    assert peeking.policy.cost_ms[0] < asking.policy.cost_ms[0]
    peeked, asked = listen(peeking), listen(asking)
    runs = [steady(peeking, dear_head()), steady(asking, headed())]
    assert any(one.peeked for one in peeked)
    assert not any(one.peeked for one in asked)
    assert runs[0].mean_ms(100) < runs[1].mean_ms(100)
    for run in runs:
        assert all(run.verified)
        assert run.agreed == run.tokens


@pytest.mark.parametrize("between", [0.02, 0.2, 0.4, 0.6, 0.8])
def test_budgets_below_lossless_decoding_use_them_too(between: float) -> None:
    """More agreement for the same money, from the shallowest exit with its head up to lossless decoding."""
    solved = governor("full", known=headed())._selector.library.solved
    least_ms, most_ms = solved.shallowest_ms, min(policy.cost_ms[0] for policy in solved.lossless)
    budget = f"{least_ms + between * (most_ms - least_ms)}ms"
    peeking, asking = governor(budget, known=dear_head()), governor(budget, known=headed())
    heard = listen(peeking)
    runs = [steady(peeking, dear_head(), 3000), steady(asking, headed(), 3000)]
    assert any(one.peeked for one in heard)
    assert runs[0].agreement(100) > runs[1].agreement(100) + 0.005
    assert runs[0].mean_ms(100) < 1.02 * runs[1].mean_ms(100)


def test_they_reach_below_the_shallowest_exit_with_its_head() -> None:
    solved, asking = (governor("full", known=known)._selector.library.solved for known in (dear_head(), headed()))
    budget_ms = (solved.shallowest_ms + asking.shallowest_ms) / 2
    assert budget_ms < 0.9 * asking.shallowest_ms
    control = governor(f"{budget_ms}ms", known=dear_head())
    heard = listen(control)
    run = steady(control, dear_head(), 3000)
    assert run.mean_ms(100) < 1.01 * budget_ms
    # What is shown without the head agrees as often as was foretold of it.
    shown = [one for one in heard if one.verdict is Verdict.EMIT]
    assert any(one.peeked for one in shown)
    assert not all(one.peeked for one in shown)
    foretold = sum(one.expected for one in shown) / len(shown)
    assert run.agreement() == pytest.approx(foretold, abs=0.02)


@pytest.mark.parametrize("times", [1.03, 1.1, 1.25])
def test_a_head_that_costs_little_is_not_saved_for_openings(times: float) -> None:
    """Where a thirtieth of a token buys a fifth of the right ones, no reply goes without to open the next one deep."""
    asking = replace(records(), profiles={**records().profiles, HEAD: profile(0.3, 0.1)})
    peeking = drafting(asking, kept=0.8)
    shallow_ms = sum(asking.profiles[name].ms(1) for name in [*SHAPE.stages(3), HEAD])
    runs = [steady(governor(f"{times * shallow_ms}ms", known=known), known, 4000) for known in (peeking, asking)]
    assert runs[0].agreement(100) > runs[1].agreement(100) - 0.01
    assert runs[0].mean_ms(100) < 1.01 * times * shallow_ms


def test_a_limit_of_single_tokens_that_has_no_time_for_the_head_does_without() -> None:
    known = dear_head()
    look_ms = sum(known.profiles[name].ms(1) for name in SHAPE.stages(3))
    head_ms = known.profiles[HEAD].ms(1)
    control = governor(f"{look_ms + 0.6 * head_ms}ms@p95", known=known)
    heard = listen(control)
    run = steady(control, known)
    # The others are more likely wrong than right.
    drafted = [control.quality.drafted(3, control.quality.bin(3, one.gate)) for one in heard]
    assert [one.peeked for one in heard] == [chance >= 0.5 for chance in drafted]
    assert sum(run.agreed) < sum(run.tokens)


def test_gates_draft_no_sampled_replies() -> None:
    """These have policies of their own, solved without such drafts."""
    control, asking = (governor(f"{FULL_MS}ms", known=known) for known in (dear_head(), headed()))
    before = control.policy
    assert asking.policy.cost_ms[0] > before.cost_ms[0]
    control.begin({}, 100, greedy=False)
    assert control.policy == asking.policy
    control.end_step(1, 1.0, charge=False)
    for logit in (-5.0, 0.0, 5.0):
        control.next_depth(control.first_split(), logit)
        assert not control.takes_gate_draft
    control.begin({}, 100)
    assert control.policy is before


@pytest.mark.parametrize("budget", ["full", "4ms"])
def test_they_are_not_used_where_they_are_seldom_right(budget: str) -> None:
    known = dear_head()
    tables = {split: replace(table, drafted=[0.1] * len(table.share)) for split, table in known.tables.items()}
    known = replace(known, tables=tables)
    control = governor(budget, known=known)
    heard = listen(control)
    steady(control, known)
    assert heard
    assert not any(one.peeked for one in heard)


@pytest.mark.parametrize("trace", shipped(TOKENS), ids=lambda trace: trace.name)
@pytest.mark.parametrize("share", [0.8, 1.0, 1.3])
def test_none_is_shown_unverified_while_tokens_are_to_be_lossless(trace: Trace, share: float) -> None:
    known = dear_head()
    cheapest_ms = steady(governor("full", known=known), known).mean_ms(100)
    for budget in (f"{share * cheapest_ms}ms", "full"):
        control = governor(budget, known=known)
        heard = listen(control)
        play(control, known, World(trace), TOKENS)
        assert not any(one.verdict is Verdict.EMIT for one in heard if one.lossless)
        assert any(one.peeked for one in heard if one.lossless) or budget != "full"


def test_a_hard_limit_has_the_head_asked_again() -> None:
    """Heat cuts a reply to the shallowest exit, whose tokens are shown as they are, with what was held before."""
    control = governor(f"{2 * FULL_MS}ms", limits=Limits(temperature_c=90.0), known=dear_head())
    control.begin({}, 100)
    control.end_step(1, 1.0, charge=False)
    sure = 5.0
    assert control.first_split() == 3
    assert control.next_depth(3, sure) is None
    assert control.takes_gate_draft
    assert control.judge(3, sure, None) is Verdict.HOLD
    control.observe_signals(Signals(time_s=0.0, temperature_c=95.0))
    assert control.first_split() == 3
    assert control.next_depth(3, sure) is None
    assert not control.takes_gate_draft
    assert control.judge(3, sure, Confidence(-3.0, 0.0)) is Verdict.EMIT
