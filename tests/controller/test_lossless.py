"""Whenever the budget affords lossless decoding, plain or speculative, every token is the full model's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from balcony_controller import Confidence, Governor, Limits, Signals, StageProfile, Verdict
from balcony_controller.records import Records
from balcony_controller.replay import Run, World, play
from balcony_controller.shape import HEAD
from balcony_controller.traces import Moment, Trace, shipped
from helpers.fakes import FULL_MS, SHAPE, drafting, governor, profile, records

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


def dearer_exits(times: float) -> dict[str, StageProfile]:
    """A machine on which exits take so many times what they were calibrated at."""
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
    """The calibration promises a gain of a fifth; all trials counted, it costs no more than two per cent."""
    control = governor(budget, min_agreement=least)
    slow = replace(records(), profiles=dearer_exits(times))
    run = play(control, slow, World(Trace("steady", [0], [Moment()]), seed=seed), 3000)
    assert all(run.verified)
    assert run.unverified_wrong == 0
    assert run.mean_ms() <= 1.02 * FULL_MS


def dear_head() -> Records:
    """Gates that give drafts, and a head that costs as much as two layers and a half, as with a large vocabulary."""
    return replace(drafting(records()), profiles={**records().profiles, HEAD: profile(2.4, 0.1)})


def steady(control: Governor, known: Records, tokens: int = TOKENS) -> Run:
    return play(control, known, World(Trace("steady", [0], [Moment()])), tokens)


def test_drafts_of_gates_spare_the_head() -> None:
    """As often right within a twentieth, they are the cheaper ones, in what is foretold and in what is spent."""
    known = dear_head()
    headed = replace(records(), profiles=known.profiles)
    peeking, asking = governor("full", known=known), governor("full", known=headed)
    assert peeking.policy.cost_ms[0] < asking.policy.cost_ms[0]
    peeked, asked = listen(peeking), listen(asking)
    runs = [steady(control, one) for control, one in ((peeking, known), (asking, headed))]
    assert peeked
    assert not asked
    assert runs[0].mean_ms(100) < runs[1].mean_ms(100)
    for run in runs:
        assert all(run.verified)
        assert run.unverified_wrong == 0


@pytest.mark.parametrize("between", [0.4, 0.6, 0.8])
def test_budgets_below_lossless_decoding_use_them_too(between: float) -> None:
    """More agreement for the same money, the shallowest exit being the cheapest and lossless decoding the dearest."""
    known = dear_head()
    headed = replace(records(), profiles=known.profiles)
    solved = governor("full", known=headed)._choice.menu.solved
    least_ms, most_ms = solved.shallowest_ms, min(policy.cost_ms[0] for policy in solved.lossless)
    budget = f"{least_ms + between * (most_ms - least_ms)}ms"
    peeking, asking = governor(budget, known=known), governor(budget, known=headed)
    peeked = listen(peeking)
    runs = [steady(peeking, known, 3000), steady(asking, headed, 3000)]
    assert peeked
    assert not any(peeked)
    assert runs[0].agreement(100) > runs[1].agreement(100) + 0.005
    assert runs[0].mean_ms(100) < 1.02 * runs[1].mean_ms(100)


def test_gates_draft_no_sampled_replies() -> None:
    """These have policies of their own, solved without such drafts."""
    known = dear_head()
    headed = replace(records(), profiles=known.profiles)
    control = governor(f"{FULL_MS}ms", known=known)
    before = control.policy
    assert governor(f"{FULL_MS}ms", known=headed).policy.cost_ms[0] > before.cost_ms[0]
    control.begin({}, 100, greedy=False)
    assert control.policy == governor(f"{FULL_MS}ms", known=headed).policy
    control.settle(1, 1.0, charge=False)
    for logit in (-5.0, 0.0, 5.0):
        control.stop_at(control.first_split(), logit)
        assert not control.peeks
    control.begin({}, 100)
    assert control.policy is before


def test_drafts_of_gates_are_not_used_where_they_are_seldom_right() -> None:
    known = dear_head()
    tables = {split: replace(table, drafted=[0.1] * len(table.share)) for split, table in known.tables.items()}
    known = replace(known, tables=tables)
    control = governor("full", known=known)
    peeked = listen(control)
    steady(control, known)
    assert not peeked


def listen(control: Governor) -> list[bool]:
    """For every draft of a gate that is judged from now on, whether its round ends with showing what it holds."""
    shown: list[bool] = []
    holding = False
    judge = control.judge

    def listening(depth: int, gate: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        nonlocal holding
        verdict = judge(depth, gate, confidence, held)
        holding = (holding and held > 0) or confidence is None
        if holding and (confidence is None or verdict is Verdict.EMIT):
            shown.append(verdict is Verdict.EMIT)
        return verdict

    control.judge = listening  # type: ignore[method-assign]
    return shown


@TRACES
def test_whatever_the_budget_no_gates_draft_is_shown_unverified(trace: Trace, cheapest_ms: float) -> None:
    known = dear_head()
    budgets = [f"{share * cheapest_ms}ms" for share in (0.8, 1.0, 1.3)]
    for budget in [*budgets, "2.2s@reply", "full"]:
        control = governor(budget, known=known)
        shown = listen(control)
        play(control, known, World(trace), TOKENS)
        assert not any(shown)
        assert shown or budget != "full"


def test_a_hard_limit_has_the_head_asked_again() -> None:
    """Heat cuts a reply to the shallowest exit, whose tokens are shown as they are; what gates drafted is verified."""
    control = governor(f"{2 * FULL_MS}ms", limits=Limits(temperature_c=90.0), known=dear_head())
    control.begin({}, 100)
    control.settle(1, 1.0, charge=False)
    sure = 5.0
    assert control.first_split() == 3
    assert control.stop_at(3, sure)[0] is None
    assert control.peeks
    assert control.judge(3, sure, None) is Verdict.HOLD
    control.hear(Signals(time_s=0.0, temperature_c=95.0))
    assert control.first_split() == SHAPE.full
    control.verified([])
    assert control.first_split() == 3
    assert control.stop_at(3, sure)[0] is None
    assert not control.peeks
    assert control.judge(3, sure, Confidence(-3.0, 0.0)) is Verdict.EMIT


def test_a_replay_with_trials_is_the_same_every_time() -> None:
    slow = replace(records(), profiles=dearer_exits(6.0))
    runs = [play(governor("full"), slow, World(Trace("steady", [0], [Moment()])), 1500) for _ in range(2)]
    assert runs[0] == runs[1]
