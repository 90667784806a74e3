"""The decode loop: whatever the verdicts, what is called lossless is the full model's, to the last bit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balcony_controller import FixedDepth, FixedDrafts, Outcome, Verdict
from balcony_controller.shape import HEAD
from balcony_controller.verdict import Found
from balcony_edge.bundle.folder import Bundle
from balcony_edge.decoding.loop import Decoder
from balcony_edge.engine.answers import confidence
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.sampling import Sampler, distribution
from balcony_edge.engine.stage import Head
from helpers.effort import examples
from helpers.exact import exact_ladder
from helpers.places import MakeBundle
from helpers.random_governor import RandomGovernor
from helpers.schedules import fresh_logits

PROMPT = [5, 17, 3, 42]


@pytest.fixture(scope="module", params=["demo", "fp32", "int8", "int4", "guessing-fp32", "guessing-int8"])
def ladder(request: pytest.FixtureRequest) -> Ladder:
    """The demo, and the tiny model at every precision and with a draft stage; padded where kernels here want it."""
    if request.param == "demo":
        bundle = Bundle.demo()
    elif request.param.startswith("guessing"):
        bundle = request.getfixturevalue("guessing_bundles")(request.param.removeprefix("guessing-"))
    else:
        make: MakeBundle = request.getfixturevalue("tiny_bundles")
        bundle = make(request.param, "bit")
    return exact_ladder(bundle)


def decode(
    ladder: Ladder, governor: Any, count: int, sampler: Sampler | None = None, prompt: Sequence[int] = PROMPT
) -> Decoder:
    """A decoder that has given ``count`` tokens after the prompt."""
    ladder.resume(prompt)
    decoder = Decoder(ladder, governor, sampler or Sampler(), prompt, frozenset())
    while (missing := count - len(decoder.tokens) + len(prompt)) > 0:
        assert 1 <= len(decoder.step(missing)) <= missing
    return decoder


def plain(ladder: Ladder, count: int) -> list[int]:
    """PROMPT and ``count`` greedy tokens of full depth alone, one at a time."""
    ladder.rewind(0)
    ladder.append(PROMPT)
    for _ in range(count):
        ladder.append([int(ladder.next_logits(ladder.full).argmax())])
    return ladder.tokens


class Declining(FixedDepth):
    """Looks at the first exit, and goes on whatever its gate says, of which it keeps a list."""

    def __init__(self, first: int, full: int) -> None:
        super().__init__(first)
        self.full = full
        self.gate_logits: list[float | None] = []

    def next_depth(self, split: int, gate_logit: float | None) -> int | None:
        """On to full depth."""
        self.gate_logits.append(gate_logit)
        return self.full


def test_a_look_that_is_declined_does_not_pay_for_the_head(ladder: Ladder) -> None:
    """The gate has answered behind the exit's layer; the head runs for full depth's token alone."""
    ladder.rewind(0)
    ran: list[str] = []
    ladder.observer = lambda stage, positions, elapsed_ms: ran.append(stage)
    policy = Declining(ladder.depths[0], ladder.full)
    try:
        decoder = decode(ladder, policy, 6)
    finally:
        ladder.observer = None
    first = ladder.exits[ladder.depths[0]]
    assert (ran.count(HEAD), ran.count(first.name)) == (6, 6)
    assert decoder.tokens == plain(ladder, 6)
    assert all((logit is None) == (first.gates is None) for logit in policy.gate_logits)


def test_gates_drafts_spare_the_head(ladder: Ladder) -> None:
    """Rounds of three: the head runs for deep passes alone, and the tokens are the full model's."""
    ladder.rewind(0)
    heads: list[int] = []
    ladder.observer = lambda stage, positions, elapsed_ms: heads.append(positions) if stage == HEAD else None
    first = ladder.depths[0]
    try:
        decoder = decode(ladder, FixedDrafts(first, 3, takes_gate_draft=True), 24)
    finally:
        ladder.observer = None
    assert decoder.tokens == plain(ladder, 24)
    if ladder.exits[first].drafts is None:
        # Without gates the head gives the drafts.
        assert heads.count(1) > heads.count(4) > 0
    else:
        # The last token may have no room for drafts.
        assert heads.count(1) <= 1 < heads.count(4)


@pytest.mark.parametrize("takes_gate_draft", [False, True])
def test_a_deep_pass_tells_whose_token_it_has_compared(ladder: Ladder, takes_gate_draft: bool) -> None:
    observed: list[Outcome] = []

    class Hearing(FixedDrafts):
        def verified(self, outcomes: Iterable[Outcome]) -> None:
            observed.extend(outcomes)

    ladder.rewind(0)
    first = ladder.depths[0]
    decode(ladder, Hearing(first, 3, takes_gate_draft=takes_gate_draft), 12)
    assert observed
    assert {one.drafted for one in observed} == {takes_gate_draft and ladder.exits[first].drafts is not None}


def test_sampled_tokens_are_drafted_by_the_head(ladder: Ladder) -> None:
    """A gate's one draft is no draw from the exit's distribution."""
    heads: list[int] = []
    ladder.observer = lambda stage, positions, elapsed_ms: heads.append(positions) if stage == HEAD else None
    try:
        decode(ladder, FixedDrafts(ladder.depths[0], 2, takes_gate_draft=True), 12, Sampler(temp=1.0, seed=3))
    finally:
        ladder.observer = None
    assert heads.count(1) >= 2 * heads.count(3) > 0


@given(seed=st.integers(0, 2**32), count=st.integers(1, 40))
@settings(max_examples=examples(15))
def test_lossless_verdicts_give_the_greedy_tokens_of_the_full_model(ladder: Ladder, seed: int, count: int) -> None:
    expected = plain(ladder, count)
    decoder = decode(ladder, RandomGovernor(ladder.depths, seed), count)
    assert decoder.tokens == expected
    assert decoder.unverified == []


@given(seed=st.integers(0, 2**32), count=st.integers(1, 40))
@settings(max_examples=examples(15))
def test_the_model_forgets_what_was_drafted_rejected_or_shown(ladder: Ladder, seed: int, count: int) -> None:
    """Every depth's logits after any decoding are those of the tokens alone."""
    decoder = decode(ladder, RandomGovernor(ladder.depths, seed, list(Verdict)), count)
    tokens = decoder.tokens[:-1]
    assert ladder.tokens == tokens
    after = {depth: ladder.next_logits(depth).copy() for depth in ladder.depths}
    for depth, logits in after.items():
        np.testing.assert_array_equal(logits, fresh_logits(ladder, tokens, depth)[-1])


@given(seed=st.integers(0, 2**32))
@settings(max_examples=examples(10))
def test_every_exits_token_is_checked_once(ladder: Ladder, seed: int) -> None:
    governor = RandomGovernor(ladder.depths, seed, list(Verdict))
    decoder = decode(ladder, governor, 30)
    emitted = {draft.position: draft for draft in decoder.unverified}
    assert len(emitted) == len(decoder.unverified)
    decoder.verify_emitted()
    assert decoder.unverified == []
    assert len(emitted) <= decoder.verified.tokens <= len(governor.outcomes)
    full = fresh_logits(ladder, decoder.tokens[:-1], ladder.full).argmax(axis=1)
    agreed = [draft.likeliest == full[position] for position, draft in emitted.items()]
    if agreed:
        assert [outcome.agreed for outcome in governor.outcomes[-len(agreed) :]] == agreed


def test_tokens_far_apart_are_checked_in_several_calls(ladder: Ladder) -> None:
    """Deep passes leave gaps between the tokens that nobody has checked: more positions than the head takes at once."""
    governor = RandomGovernor([*ladder.depths[:-1] * 4, ladder.full], 8, [Verdict.EMIT], lookups=0.0)
    decoder = decode(ladder, governor, ladder.context - len(PROMPT))
    positions = [draft.position for draft in decoder.unverified]
    assert positions[-1] - positions[0] > Head.MAX_ROWS
    assert len(positions) < positions[-1] - positions[0] + 1
    checked = len(governor.outcomes)
    decoder.verify_emitted()
    full = fresh_logits(ladder, decoder.tokens[:-1], ladder.full).argmax(axis=1)
    expected = [full[position] == decoder.tokens[position + 1] for position in positions]
    assert [outcome.agreed for outcome in governor.outcomes[checked:]] == expected


def test_the_head_refuses_more_rows_than_it_has(ladder: Ladder) -> None:
    ladder.rewind(0)
    ladder.append([1] * (Head.MAX_ROWS + 1))
    with pytest.raises(ValueError, match="rows at a time"):
        ladder.logits_view(ladder.full, 0, Head.MAX_ROWS + 1)


def test_prompts_share_their_beginning(ladder: Ladder) -> None:
    """A second prompt keeps the caches of what it shares with the first, and answers as if it were alone."""
    other = [*PROMPT, 9, 9, 8]
    decode(ladder, RandomGovernor(ladder.depths, 1, list(Verdict)), 12)
    shared = ladder.resume(other)
    assert len(PROMPT) <= shared < len(other)
    after = ladder.next_logits(ladder.full).copy()
    np.testing.assert_array_equal(after, fresh_logits(ladder, other, ladder.full)[-1])
    assert ladder.resume(other) == len(other)
    np.testing.assert_array_equal(ladder.next_logits(ladder.full), after)


def test_sampled_speculation_has_the_distribution_of_plain_sampling(ladder: Ladder) -> None:
    """Two tokens, three candidates each: Pearson's statistic of the nine outcomes against their true probabilities."""
    first = distribution(fresh_logits(ladder, PROMPT, ladder.full)[-1], 1.5, top_k=3)
    truth: dict[tuple[int, int], float] = {}
    for token in np.flatnonzero(first):
        second = distribution(fresh_logits(ladder, [*PROMPT, int(token)], ladder.full)[-1], 1.5, top_k=3)
        truth |= {(int(token), int(then)): float(first[token] * second[then]) for then in np.flatnonzero(second)}
    governor = RandomGovernor(ladder.depths, 4)
    sampler = Sampler(temp=1.5, top_k=3, seed=11)
    runs = 1200
    found = dict.fromkeys(truth, 0)
    drafted = 0
    for _ in range(runs):
        decoder = decode(ladder, governor, 2, sampler)
        found[tuple(decoder.tokens[-2:])] += 1  # type: ignore[index]
        drafted += decoder.drafted
    assert drafted > runs / 4
    # Eight degrees of freedom: above 26.1 once in a thousand.
    assert sum((found[pair] - share * runs) ** 2 / (share * runs) for pair, share in truth.items()) < 26.1


class FromText(FixedDepth):
    """Takes all drafts that the text offers."""

    def lookup(self, found: Found) -> int:
        return found.drafts


def test_sampled_replies_with_drafts_from_the_text_have_the_distribution_of_plain_sampling(ladder: Ladder) -> None:
    """As above, where the first token's draft is one of the three candidates and is rejected now and then."""

    def first_of(prompt: list[int]) -> npt.NDArray[np.float64]:
        return distribution(fresh_logits(ladder, prompt, ladder.full)[-1], 1.5, top_k=3)

    prompts = ([*PROMPT, token, 9, *PROMPT] for token in range(10, ladder.vocabulary))
    prompt = next(one for one in prompts if 0.2 < first_of(one)[one[len(PROMPT)]] < 0.8)
    first = first_of(prompt)
    truth: dict[tuple[int, int], float] = {}
    for token in np.flatnonzero(first):
        second = first_of([*prompt, int(token)])
        truth |= {(int(token), int(then)): float(first[token] * second[then]) for then in np.flatnonzero(second)}
    sampler, runs = Sampler(temp=1.5, top_k=3, seed=11), 1200
    found = dict.fromkeys(truth, 0)
    looked_up = 0
    for _ in range(runs):
        decoder = decode(ladder, FromText(ladder.full), 2, sampler, prompt)
        found[tuple(decoder.tokens[-2:])] += 1  # type: ignore[index]
        looked_up += decoder.looked_up
    assert 0.2 * runs < looked_up
    assert sum((found[pair] - share * runs) ** 2 / (share * runs) for pair, share in truth.items()) < 26.1


@given(seed=st.integers(0, 2**32))
@settings(max_examples=examples(10))
def test_log_probabilities_are_those_of_plain_full_depth_to_the_last_bit(ladder: Ladder, seed: int) -> None:
    """Whatever was drafted, by exits or from the text."""

    def scores(governor: Any) -> list[Any]:
        ladder.resume(PROMPT)
        decoder = Decoder(ladder, governor, Sampler(top_logprobs=3), PROMPT, frozenset())
        emitted: list[Any] = []
        while len(emitted) < 24:
            emitted += decoder.step(24 - len(emitted))
        return [(item.token, item.score) for item in emitted]

    assert scores(RandomGovernor(ladder.depths, seed)) == scores(FixedDepth(ladder.full))


def test_a_text_that_repeats_is_drafted_from_itself() -> None:
    """A greedy reply of a small model runs in circles sooner or later."""
    ladder = exact_ladder(Bundle.demo())
    count = ladder.context - len(PROMPT)
    decoder = decode(ladder, FromText(ladder.full), count)
    assert decoder.tokens == plain(ladder, count)
    assert decoder.looked_up == decoder.accepted > count / 4


def test_an_end_token_is_left_to_the_full_model(ladder: Ladder) -> None:
    """A draft that would end the reply ends it only if the full model says so."""
    expected = plain(ladder, 40)[len(PROMPT) :]
    end = expected[7]
    ladder.resume(PROMPT)
    decoder = Decoder(ladder, RandomGovernor(ladder.depths, 3), Sampler(), PROMPT, frozenset([end]))  # type: ignore[arg-type]
    emitted: list[int] = []
    while end not in emitted:
        emitted += [item.token for item in decoder.step(40 - len(emitted))]
    assert emitted == expected[: expected.index(end) + 1]


def test_the_context_can_be_filled_to_the_last_position(ladder: Ladder) -> None:
    room = ladder.context - len(PROMPT)
    assert decode(ladder, RandomGovernor(ladder.depths, 2), room).tokens == plain(ladder, room)


def test_confidence_is_that_of_the_softmax() -> None:
    logits = np.array([1.0, 3.0, 2.5, -4.0], np.float32)
    found = confidence(logits, 1)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    assert found.top == pytest.approx(np.log(probabilities[1]), abs=1e-6)
    assert found.margin == pytest.approx(0.5)
    np.testing.assert_array_equal(logits, np.array([1.0, 3.0, 2.5, -4.0], np.float32))
