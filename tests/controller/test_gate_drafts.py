"""Gate drafts are held in rounds, or emitted without running the head, wherever that buys more agreement."""

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
    """One call of ``judge``: the gate's logit, whether of a gate draft, whether tokens were lossless, the result."""

    gate: float | None
    from_gate: bool
    lossless: bool
    verdict: Verdict
    expected: float


def costly_head() -> Records:
    """Gates that give drafts, and a head that costs as much as two layers and a half, as with a large vocabulary."""
    return replace(drafting(records()), profiles={**records().profiles, HEAD: profile(2.4, 0.1)})


def headed() -> Records:
    """The same without drafts."""
    return replace(records(), profiles=costly_head().profiles)


def steady(control: Governor, known: Records, tokens: int = TOKENS) -> Run:
    return play(control, known, World(Trace("steady", [0], [Moment()])), tokens)


def listen(control: Governor) -> list[Judged]:
    """Everything that is judged from now on is added to the list."""
    judgements: list[Judged] = []
    judge = control.judge

    def listening(depth: int, gate: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        verdict = judge(depth, gate, confidence, held)
        judgements.append(Judged(gate, confidence is None, control.lossless, verdict, control.expected))
        return verdict

    control.judge = listening  # type: ignore[method-assign]
    return judgements


def test_rounds_spare_the_head() -> None:
    """Gate drafts are right almost as often as tokens of the head, so rounds cost less: as predicted, and in replay."""
    gated, headed_only = governor("full", known=costly_head()), governor("full", known=headed())
    assert gated.policy.cost_ms[0] < headed_only.policy.cost_ms[0]
    gated_judgements, headed_judgements = listen(gated), listen(headed_only)
    runs = [steady(gated, costly_head()), steady(headed_only, headed())]
    assert any(one.from_gate for one in gated_judgements)
    assert not any(one.from_gate for one in headed_judgements)
    assert runs[0].mean_ms(100) < runs[1].mean_ms(100)
    for run in runs:
        assert all(run.verified)
        assert run.agreed == run.tokens


@pytest.mark.parametrize("between", [0.02, 0.2, 0.4, 0.6, 0.8])
def test_budgets_below_lossless_decoding_use_them_too(between: float) -> None:
    """More agreement at the same cost, from the shallowest exit with its head up to lossless decoding."""
    solved = governor("full", known=headed())._selector.solved
    least_ms, most_ms = solved.shallowest_ms, min(policy.cost_ms[0] for policy in solved.lossless)
    budget = f"{least_ms + between * (most_ms - least_ms)}ms"
    gated, headed_only = governor(budget, known=costly_head()), governor(budget, known=headed())
    judgements = listen(gated)
    runs = [steady(gated, costly_head(), 3000), steady(headed_only, headed(), 3000)]
    assert any(one.from_gate for one in judgements)
    assert runs[0].agreement(100) > runs[1].agreement(100) + 0.005
    assert runs[0].mean_ms(100) < 1.02 * runs[1].mean_ms(100)


def test_they_reach_below_the_shallowest_exit_with_its_head() -> None:
    solved, headed_only = (governor("full", known=known)._selector.solved for known in (costly_head(), headed()))
    budget_ms = (solved.shallowest_ms + headed_only.shallowest_ms) / 2
    assert budget_ms < 0.9 * headed_only.shallowest_ms
    control = governor(f"{budget_ms}ms", known=costly_head())
    judgements = listen(control)
    run = steady(control, costly_head(), 3000)
    assert run.mean_ms(100) < 1.01 * budget_ms
    # Tokens emitted without the head agree as often as predicted.
    emitted = [one for one in judgements if one.verdict is Verdict.EMIT]
    assert any(one.from_gate for one in emitted)
    assert not all(one.from_gate for one in emitted)
    predicted = sum(one.expected for one in emitted) / len(emitted)
    agreed = [right for right, verified in zip(run.agreed, run.verified, strict=True) if not verified]
    assert sum(agreed) / len(agreed) == pytest.approx(predicted, abs=0.02)


@pytest.mark.parametrize("times", [1.03, 1.1, 1.25])
def test_a_head_that_costs_little_is_not_saved_for_openings(times: float) -> None:
    """The head costs a thirtieth of a token and makes a fifth more tokens right. Openings never gain that much."""
    headed_only = replace(records(), profiles={**records().profiles, HEAD: profile(0.3, 0.1)})
    gated = drafting(headed_only, kept=0.8)
    shallow_ms = sum(headed_only.profiles[name].ms(1) for name in [*SHAPE.stages(3), HEAD])
    runs = [steady(governor(f"{times * shallow_ms}ms", known=known), known, 4000) for known in (gated, headed_only)]
    assert runs[0].agreement(100) > runs[1].agreement(100) - 0.01
    assert runs[0].mean_ms(100) < 1.01 * times * shallow_ms


def test_a_limit_on_single_tokens_that_has_no_time_for_the_head_does_without() -> None:
    known = costly_head()
    gate_ms = sum(known.profiles[name].ms(1) for name in SHAPE.stages(3))
    head_ms = known.profiles[HEAD].ms(1)
    control = governor(f"{gate_ms + 0.6 * head_ms}ms@p95", known=known)
    judgements = listen(control)
    run = steady(control, known)
    # Gate drafts that are more likely wrong than right are not emitted.
    drafted = [control.quality.drafted(3, control.quality.bin(3, one.gate)) for one in judgements]
    assert [one.from_gate for one in judgements] == [chance >= 0.5 for chance in drafted]
    assert sum(run.agreed) < sum(run.tokens)


def test_sampled_replies_have_no_gate_drafts() -> None:
    """They have policies of their own, solved without gate drafts."""
    control, headed_only = (governor(f"{FULL_MS}ms", known=known) for known in (costly_head(), headed()))
    before = control.policy
    assert headed_only.policy.cost_ms[0] > before.cost_ms[0]
    control.begin({}, 100, greedy=False)
    assert control.policy == headed_only.policy
    control.end_step(1, 1.0, charge=False)
    for logit in (-5.0, 0.0, 5.0):
        control.next_depth(control.first_split(), logit)
        assert not control.takes_gate_draft
    control.begin({}, 100)
    assert control.policy is before


@pytest.mark.parametrize("budget", ["full", "4ms"])
def test_they_are_not_used_where_they_are_seldom_right(budget: str) -> None:
    known = costly_head()
    tables = {split: replace(table, drafted=[0.1] * len(table.share)) for split, table in known.tables.items()}
    known = replace(known, tables=tables)
    control = governor(budget, known=known)
    judgements = listen(control)
    steady(control, known)
    assert judgements
    assert not any(one.from_gate for one in judgements)


@pytest.mark.parametrize("trace", shipped(TOKENS), ids=lambda trace: trace.name)
@pytest.mark.parametrize("share", [0.8, 1.0, 1.3])
def test_none_is_emitted_unverified_while_tokens_are_to_be_lossless(trace: Trace, share: float) -> None:
    known = costly_head()
    cheapest_ms = steady(governor("full", known=known), known).mean_ms(100)
    for budget in (f"{share * cheapest_ms}ms", "full"):
        control = governor(budget, known=known)
        judgements = listen(control)
        play(control, known, World(trace), TOKENS)
        assert not any(one.verdict is Verdict.EMIT for one in judgements if one.lossless)
        assert any(one.from_gate for one in judgements if one.lossless) or budget != "full"


def test_under_a_hard_limit_the_head_is_run_again() -> None:
    """Heat cuts a reply to the shallowest exit: its tokens, and drafts held before them, are emitted unverified."""
    control = governor(f"{2 * FULL_MS}ms", limits=Limits(temperature_c=90.0), known=costly_head())
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
