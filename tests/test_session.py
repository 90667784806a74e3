"""AdaptiveSession: streaming, budgets, agreement and reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from balcony_controller import Confidence, FixedDepth, FixedDrafts
from balcony_controller.verdict import Found
from balcony_edge import AdaptiveSession, Budget, BudgetError, Bundle, PromptError
from balcony_edge.bundle.manifest import JudgeRecord, Precision
from balcony_edge.control.adapter import quality_model
from balcony_edge.decoding.loop import FEEDBACK_ROWS, GUESS, LOOKUP
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.telemetry import FakeSensors

PROMPT = "Once upon a time, there was a little"


@pytest.fixture(scope="module")
def session() -> Iterator[AdaptiveSession]:
    with AdaptiveSession(sensors=FakeSensors(), provider="cpu") as opened:
        yield opened


@pytest.fixture(autouse=True)
def _full_budget(session: AdaptiveSession) -> None:
    session.budget = None


def plain_greedy(prompt: list[int], count: int) -> list[int]:
    """Greedy decoding of the full path alone."""
    ladder = Ladder(Bundle.demo(), Runtime.start("cpu"))
    ladder.append(prompt)
    out: list[int] = []
    for _ in range(count):
        out.append(int(ladder.next_logits(ladder.full).argmax()))
        ladder.append(out[-1:])
    return out


def test_without_a_budget_every_token_is_the_full_models(session: AdaptiveSession) -> None:
    ids = session.codec.encode(PROMPT)
    tokens = list(session.stream(PROMPT, 24))
    assert [token.id for token in tokens] == plain_greedy(ids, 24)[: len(tokens)]
    assert {token.depth for token in tokens} == {session.ladder.full}
    assert session.report().lossless
    assert session.report().agreement == 1.0
    assert not session.report().out_of_reach
    assert session.report().why() == "Nothing was limited: every token is the full model's."


def test_text_of_the_tokens_is_the_text_of_the_reply(session: AdaptiveSession) -> None:
    tokens = list(session.stream(PROMPT, 32))
    whole = session.codec.decode([*session.codec.encode(PROMPT), *(token.id for token in tokens)])
    assert PROMPT + "".join(token.text for token in tokens) == whole
    assert session.generate(PROMPT, 32) == "".join(token.text for token in tokens)


def test_a_tight_budget_stays_shallow_and_says_so(session: AdaptiveSession) -> None:
    session.budget = "0.000001ms"
    tokens = list(session.stream(PROMPT, 24))
    assert {token.depth for token in tokens} == {session.ladder.depths[0]}
    report = session.report()
    assert not report.lossless
    assert report.agreement is None
    assert report.out_of_reach
    assert "below what the shallowest depth costs here" in report.line()
    assert report.why().endswith("more than the budget 1e-06ms: no token went deeper.")
    assert "unknown" in report.line()
    assert report.depth_shares == {session.ladder.depths[0]: 1.0}


def test_the_budget_can_change_while_tokens_stream(session: AdaptiveSession) -> None:
    session.budget = "0.000001ms"
    stream = session.stream(PROMPT, 20)
    shallow = [next(stream).depth for _ in range(6)]
    session.budget = "full"
    deep = [token.depth for token in stream]
    assert set(shallow) == {session.ladder.depths[0]}
    assert set(deep) == {session.ladder.full}


def test_a_deep_pass_verifies_the_last_tokens_that_exits_gave(session: AdaptiveSession) -> None:
    """The measured agreement is that of the exits' choices with the full model on the very same tokens."""
    session.budget = "0.000001ms"
    stream = session.stream(PROMPT, 30)
    emitted = [next(stream) for _ in range(12)]
    session.budget = None
    emitted += list(stream)
    shallow = sum(token.depth != session.ladder.full for token in emitted)
    report = session.report()
    start = len(session.codec.encode(PROMPT)) - 1
    ids = session.codec.encode(PROMPT) + [token.id for token in emitted]
    audited = session.audit()
    full = session.logits(ids).argmax(axis=1)[start:]
    agreed = [token.id == full[index] for index, token in enumerate(emitted[:shallow])]
    assert shallow >= 10
    assert (report.verified, report.agreed) == (FEEDBACK_ROWS, sum(agreed[-FEEDBACK_ROWS:]))
    assert (audited.verified, audited.agreed) == (shallow, sum(agreed))


def test_an_audit_verifies_what_no_deep_pass_has_seen(session: AdaptiveSession) -> None:
    session.budget = "0.000001ms"
    tokens = [token.id for token in session.stream(PROMPT, 100)]
    assert session.report().verified == 0
    report = session.audit()
    assert report.verified == len(tokens)
    prompt = session.codec.encode(PROMPT)
    full = session.logits(prompt + tokens).argmax(axis=1)[len(prompt) - 1 : -1]
    assert report.agreed == int((full == tokens).sum())
    assert report.agreement == report.agreed / len(tokens)


def test_logits_are_the_ladders_at_every_depth(session: AdaptiveSession) -> None:
    ids = session.codec.encode(PROMPT)
    for depth in session.ladder.depths:
        logits = session.logits(ids, depth)
        assert logits.shape == (len(ids), session.ladder.vocabulary)
    np.testing.assert_array_equal(session.logits(ids), session.logits(ids, session.ladder.full))
    with pytest.raises(PromptError, match="no depth"):
        session.logits(ids, 5)


def test_a_second_reply_ends_the_first(session: AdaptiveSession) -> None:
    first = session.stream(PROMPT, 20)
    next(first)
    second = session.stream("The cat", 5)
    next(second)
    assert list(first) == []
    assert len(list(second)) <= 4


def test_sampling_repeats_with_its_seed(session: AdaptiveSession) -> None:
    draws = [session.generate(PROMPT, 24, temp=1.0, seed=seed) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_stop_tokens_end_a_reply(session: AdaptiveSession) -> None:
    tokens = list(session.stream(PROMPT, 24))
    stopped = list(session.stream(PROMPT, 24, stop=[tokens[5].id]))
    first = next(index for index, token in enumerate(tokens) if token.id == tokens[5].id)
    assert [token.id for token in stopped] == [token.id for token in tokens[:first]]


def test_a_reply_ends_where_the_context_does(session: AdaptiveSession) -> None:
    prompt = [5] * (session.ladder.context - 3)
    assert len(list(session.stream(prompt, 50, stop=[]))) <= 3
    with pytest.raises(PromptError, match="context"):
        session.stream([5] * session.ladder.context)


@pytest.mark.parametrize("prompt", [[], [-1], [10**9]])
def test_prompts_that_cannot_be_run(session: AdaptiveSession, prompt: list[int]) -> None:
    with pytest.raises(PromptError):
        session.stream(prompt)


def test_settings_that_make_no_sense(session: AdaptiveSession) -> None:
    for settings in ({"temp": -1.0}, {"top_p": 0.0}, {"min_p": 2.0}, {"top_k": -1}, {"repeat_penalty": 0.0}):
        with pytest.raises(PromptError, match="out of range"):
            session.stream(PROMPT, **settings)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="0 tokens"):
        session.stream(PROMPT, 0)


def test_budgets_that_cannot_be_read(session: AdaptiveSession) -> None:
    with pytest.raises(BudgetError, match="character 3"):
        session.budget = "25"
    with pytest.raises(BudgetError):
        AdaptiveSession(budget="8 parsecs")
    session.budget = Budget(3.0)
    assert str(session.budget) == "3ms"


def test_unknown_signals_are_reported_as_unknown(session: AdaptiveSession) -> None:
    list(session.stream(PROMPT, 2))
    assert "gpu unknown" in session.report().line()


@pytest.mark.parametrize("speculate", [True, False])
def test_lossless_with_and_without_speculation(speculate: bool) -> None:
    with AdaptiveSession(sensors=FakeSensors(), provider="cpu", speculate=speculate) as session:
        tokens = list(session.stream(PROMPT, 60))
        report = session.report()
    assert [token.id for token in tokens] == plain_greedy(session.codec.encode(PROMPT), 60)[: len(tokens)]
    assert report.lossless
    assert report.bit_exact
    assert report.accepted == sum(token.drafted_at is not None for token in tokens)
    assert speculate or report.drafted == 0


class FromText(FixedDepth):
    """Takes all drafts that the text offers."""

    def lookup(self, found: Found) -> int:
        return found.drafts


def test_drafts_from_the_text_are_reported(session: AdaptiveSession) -> None:
    """A small model runs in circles sooner or later."""
    tokens = list(session.reply(PROMPT, 200, decider=FromText(session.ladder.full)))
    report = session.report()
    assert report.lossless
    assert 0 < report.looked_up == report.accepted == sum(token.drafted_at == LOOKUP for token in tokens)
    assert f"{report.looked_up} of them from the text" in report.line()


class Guessing(FixedDepth):
    """Makes two guesses a step wherever it can."""

    def wants_guess(self, held: int) -> bool:
        return held < 2

    def holds_guess(self, top: float) -> bool:
        return top > -math.inf


def test_guesses_are_reported(guessing_bundles: Callable[[Precision], Bundle]) -> None:
    with AdaptiveSession(guessing_bundles("fp32").path, provider="cpu") as session:
        full = session.ladder.full
        ids = [5, 6, 7, 8]
        plain = [token.id for token in session.reply(ids, 60, decider=FixedDepth(full))]
        tokens = list(session.reply(ids, 60, decider=Guessing(full)))
        report = session.report()
        governed = [token.id for token in session.reply(ids, 60)]
    assert plain == [token.id for token in tokens] == governed
    assert report.lossless
    assert report.drafted > report.accepted
    assert report.guessed == report.accepted == sum(token.drafted_at == GUESS for token in tokens)


@pytest.mark.parametrize("speculate", [True, False])
def test_the_draft_stage_reads_the_prompt_with_the_first_token(
    guessing_bundles: Callable[[Precision], Bundle], speculate: bool
) -> None:
    """So that no later token waits for it. A reply that drafts nothing does without."""
    with AdaptiveSession(guessing_bundles("fp32").path, provider="cpu", speculate=speculate) as session:
        reply = session.reply([5, 6, 7, 8, 9], 20)
        next(iter(reply))
        assert session.ladder.drafter is not None
        assert (session.ladder.drafter.cursor >= 4) == speculate


@pytest.mark.parametrize("speculate", [True, False])
def test_a_budget_that_affords_it_is_lossless_whatever_the_sensors_say(speculate: bool) -> None:
    sensors = FakeSensors()
    with AdaptiveSession(budget="60000ms", sensors=sensors, provider="cpu", speculate=speculate) as session:
        tokens = []
        for index, token in enumerate(session.stream(PROMPT, 60)):
            tokens.append(token.id)
            sensors.set(
                cpu_load=index % 2 / 1.0, gpu_load=None, gpu_clock_hz=1e9 / (1 + index % 3), throttled=index % 2
            )
        report = session.report()
    assert tokens == plain_greedy(session.codec.encode(PROMPT), 60)[: len(tokens)]
    assert report.lossless


def test_under_any_budget_tokens_of_full_depth_are_the_full_models_own(session: AdaptiveSession) -> None:
    """Also those that exits drafted, and after tokens that the full model would not have chosen."""
    ids = session.codec.encode(PROMPT)
    for budget in ("0.0001ms", "0.3ms", "0.45ms", "3ms"):
        session.budget = budget
        tokens = list(session.stream(PROMPT, 60))
        choices = session.logits(ids + [token.id for token in tokens]).argmax(axis=1)[len(ids) - 1 :]
        for token, choice in zip(tokens, choices, strict=False):
            assert token.depth < session.ladder.full or token.id == choice
    session.budget = None


def test_a_second_turn_reuses_the_first(session: AdaptiveSession) -> None:
    first = [token.id for token in session.stream(PROMPT, 20)]
    prompt = session.codec.encode(PROMPT)
    longer = [*prompt, *first, *session.codec.encode(" Then")]
    reply = [token.id for token in session.stream(longer, 10)]
    assert session.report().reused_tokens >= len(prompt) + len(first) - 1
    assert reply == plain_greedy(longer, 10)[: len(reply)]


def test_a_bundles_judges_reach_the_controller() -> None:
    """The manifest's bins are of probabilities; what the controller makes of a token is the bin's agreement."""
    demo = Bundle.demo()
    record = JudgeRecord(
        gate=0.5, top=1.0, margin=0.1, previous=0.2, offset=0.3, previous_mean=-0.7,
        edges=[0.3, 0.6], share=[0.2, 0.3, 0.5], agreement=[0.1, 0.1, 0.9],
    )  # fmt: skip
    quality = demo.manifest.quality[3].model_copy(update={"judge": record})
    without = demo.manifest.quality[6].model_copy(update={"judge": None})
    demo.manifest = demo.manifest.model_copy(update={"quality": {3: quality, 6: without}})
    model = quality_model(demo)
    assert set(model.judges) == {3}
    sure, unsure = Confidence(-0.01, 9.0, -0.1), Confidence(-9.0, 0.1)
    assert model.judged(3, 2.0, sure) == pytest.approx(0.9)
    assert model.judged(3, -2.0, unsure) == pytest.approx(0.1)
    score = 0.5 * -2.0 + 1.0 * -9.0 + 0.1 * 0.1 + 0.2 * -0.7 + 0.3
    assert score < np.log(0.3 / 0.7)


def test_a_reply_is_an_object_with_figures() -> None:
    with AdaptiveSession(sensors=FakeSensors(), provider="cpu") as session:
        plain = session.reply("Once upon a time", 20, decider=FixedDepth(session.ladder.full))
        tokens = list(plain)
        assert [token.id for token in tokens] == plain.tokens[: len(tokens)]
        assert plain.figures.depth_counts == {session.ladder.full: len(tokens)}
        assert plain.figures.tokens == len(tokens) == plain.figures.timed_tokens + 1
        with pytest.raises(RuntimeError, match="once"):
            list(plain)
        drafted = session.reply(plain.ids, 20, decider=FixedDrafts(3, 3), fresh=True)
        assert [token.id for token in drafted] == [token.id for token in tokens]
        assert drafted.figures.reused_tokens == 0
        assert 0 < drafted.accepted <= drafted.drafted
        with pytest.raises(PromptError, match="outside the vocabulary"):
            session.reply([10**6])
