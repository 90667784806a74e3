"""The decode loop over a ladder: early exits, deep passes and self-speculation in one.

A *draft* is a token of an exit that was not emitted yet. A *deep pass* runs the full depth for all positions that lack
it, in one batched call, and verifies the drafts held there. It accepts them up to the first wrong one, emits these and
one token of the full model's own, and rewinds the caches over the rejected ones.

Plain decoding, early exits and lossless self-speculation are this loop with different verdicts of the decider, which
is the governor as a rule. ``balcony_controller.driver.decode_step`` asks it in the same order here and in replay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from balcony_controller import Confidence, Decider, Outcome
from balcony_controller.driver import decode_step
from balcony_controller.verdict import Found
from balcony_edge.decoding.lookup import NOTHING, LookupIndex
from balcony_edge.engine.answers import Answers, FromLogits, confidence
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.sampling import Logits, Sample, Sampler
from balcony_edge.engine.scores import TokenScore, score
from balcony_edge.engine.stage import Head

# A deep pass also verifies up to this many emitted tokens right before its own positions. That tells the controller how
# good the exits are, for a few more rows of the head.
FEEDBACK_ROWS = 4
# Stand for an exit's depth where a draft was looked up in the text, or guessed by the draft stage; and what servers and
# pages call these sources.
LOOKUP, GUESS = 0, -1
SOURCES = {LOOKUP: "lookup", GUESS: "guess"}


class Draft(NamedTuple):
    """A token of the exit at ``depth`` that follows the token at ``position``.

    ``sample``: the token and the probabilities it was drawn from. ``likeliest``: the exit's likeliest token, which need
    not be the one drawn. ``expected``: predicted probability that the full model agrees. ``from_gate``: it is a gate
    draft, not the exit's own token.
    """

    position: int
    depth: int
    sample: Sample
    likeliest: int
    expected: float
    from_gate: bool
    score: TokenScore | None = None


class Emitted(NamedTuple):
    """An emitted token, and the depth whose answer it is. ``drafted_at``: the exit that drafted it, if one did;
    LOOKUP if it was looked up in the text, GUESS if the draft stage guessed it.

    ``score``: its log-probabilities at that depth, if the sampler tells them.
    """

    token: int
    depth: int
    drafted_at: int | None = None
    score: TokenScore | None = None


class Verified(NamedTuple):
    """How many tokens emitted at exits were compared with the full model's later, and how many of them agreed."""

    tokens: int = 0
    agreed: int = 0

    def plus(self, outcomes: Sequence[Outcome]) -> Verified:
        """The counts with these outcomes added."""
        if not outcomes:
            return self
        return Verified(self.tokens + len(outcomes), self.agreed + sum(outcome.agreed for outcome in outcomes))


class Decoder:
    """Decodes one reply, step by step. The ladder must hold the prompt, and nobody else may use it meanwhile.

    Attributes:
        full: depth of the whole model.
        tokens: the prompt's ids and those emitted so far.
        unverified: tokens that were emitted at exits and that no deep pass has verified yet.
        verified: counts of those that one has.
        drafted, accepted: counts of the drafts that were held for a deep pass, and of those that it accepted.
            ``looked_up`` of the accepted ones were found in the text, ``guessed`` came from the draft stage.
    """

    def __init__(
        self, ladder: Ladder, decider: Decider, sampler: Sampler, prompt: Sequence[int], ends: frozenset[int]
    ) -> None:
        self._ladder = ladder
        self._decider = decider
        self._sampler = sampler
        sampler.prompt_tokens = len(prompt)
        self._ends = ends
        self.full = ladder.full
        self.tokens = list(prompt)
        self.unverified: list[Draft] = []
        self.verified = Verified()
        self.drafted = self.accepted = self.looked_up = self.guessed = 0
        self._held: list[Draft] = []
        self._index = LookupIndex()
        self._found, self._offered = NOTHING, 0
        self._guess = 0
        self._candidate = Draft(0, 0, Sample(0, None), 0, 0.0, False)
        # Position, depth and top log-probability of the last token that an exit gave.
        self._top: tuple[int, int, float] = (-1, 0, 0.0)

    def step(self, most: int) -> Sequence[Emitted]:
        """The next tokens: at least one, at most ``most``, with at most one deep pass.

        The last of them is in ``tokens``, but not in the ladder yet.
        """
        ladder = self._ladder
        if len(self.tokens) > ladder.length:
            ladder.append(self.tokens[ladder.length :])
        self._held = []
        is_first = len(self.tokens) == self._sampler.prompt_tokens
        emitted = decode_step(self._decider, self, most)
        if is_first and self._decider.may_guess and ladder.knows_deep():
            # What it guesses now is not asked for: it reads the prompt while no token waits for it.
            ladder.guess()
        return emitted

    def verify_emitted(self) -> None:
        """Compare all emitted tokens that no deep pass has verified with the full model's."""
        waiting, self.unverified = self.unverified, []
        outcomes: list[Outcome] = []
        while waiting:
            # Other tokens may lie between them: take as many as fit into one call of the head.
            first = waiting[0].position
            group = [draft for draft in waiting if draft.position < first + Head.MAX_ROWS]
            waiting = waiting[len(group) :]
            answers = self._ladder.answers(self._ladder.full, first, group[-1].position + 1)
            outcomes += [_outcome(draft, answers, first) for draft in group]
        self.verified = self.verified.plus(outcomes)
        self._decider.verified(outcomes)

    # --- what a step asks (driver.StepDecoder) ---

    def lookup(self, most: int) -> Found:
        """What followed where the last tokens have occurred before; nothing where no draft may be held."""
        ladder, tokens = self._ladder, self.tokens
        most = min(most, Head.MAX_ROWS - FEEDBACK_ROWS, ladder.context - ladder.length + 1) - 1
        found, begin = self._index.find(tokens, max(0, most))
        # An end token is never held.
        count = next((place for place in range(found.drafts) if tokens[begin + place] in self._ends), found.drafts)
        self._found, self._offered = found._replace(drafts=count), begin
        return self._found

    def hold_lookup(self, count: int) -> None:
        """Hold the first ``count`` of the tokens found."""
        self._foresee(LOOKUP, self.tokens[self._offered : self._offered + count])

    def can_guess(self, most: int) -> bool:
        """Whether the draft stage can guess the next token, and it may be held where ``most`` tokens are wanted."""
        held = len(self._held)
        # After its first guess of a step, it goes on from its own.
        return self._may_hold(most) and (held > 0 or self._ladder.knows_deep())

    def guess(self) -> float:
        """Let the draft stage guess the next token; returns the log-probability that it gives it."""
        guess = self._ladder.guess(len(self._held))
        self._guess = guess.token
        # An end token is never held.
        return -math.inf if guess.token in self._ends else guess.top

    def hold_guess(self) -> None:
        """Hold this guess, so that the next one follows it."""
        self._foresee(GUESS, [self._guess])

    def look(self, split: int) -> float | None:
        """Advance the stages up to the exit at ``split``; returns its gate's logit for the last token."""
        ladder = self._ladder
        ladder.advance(split, ladder.length)
        return ladder.gate(split)

    def ask(self, depth: int, takes_gate_draft: bool) -> Confidence | None:
        """Make the exit's token, or its gate draft, the candidate.

        Returns how sure the exit is of its token; None for a gate draft.
        """
        ladder = self._ladder
        position = ladder.length - 1
        found: Confidence | None
        scored: TokenScore | None = None
        if self._sampler.plain_greedy:
            # Only greedily: a gate gives one draft, which a sampled token would equal too seldom.
            if takes_gate_draft and (draft := ladder.draft(depth)) is not None:
                self._candidate = Draft(position, depth, Sample(draft, None), draft, 0.0, True)
                return None
            answers = ladder.answers(depth, position, ladder.length)
            token = likeliest = answers.token(0)
            sample, found = Sample(token, None), answers.confidence(0)
        else:
            logits = ladder.next_logits(depth)
            sample = self._sampler.choose(logits, self.tokens)
            likeliest = int(logits.argmax())
            found = confidence(logits, likeliest)
            scored = _scored(self._sampler, logits, sample.token)
        self._candidate = Draft(position, depth, sample, likeliest, 0.0, False, scored)
        return self._with_previous(found, depth)

    def can_hold(self, most: int) -> bool:
        """Whether the candidate may be held as a draft while at most ``most`` tokens are wanted.

        It may not if it is an end token, if the context is full, or if one more draft would be more than the head has
        rows for.
        """
        return self._may_hold(most) and self._candidate.sample.token not in self._ends

    def take(self, expected: float) -> None:
        """Add the candidate to the drafts of this step."""
        draft = self._candidate._replace(expected=expected)
        self._held.append(draft)
        self.tokens.append(draft.sample.token)

    def go_on(self) -> None:
        """Put the last draft into the ladder, so that the next position follows it."""
        self._ladder.append(self.tokens[-1:])

    def emit(self) -> Sequence[Emitted]:
        """Emit the drafts of this step unverified."""
        # Nobody reads an end token, so it needs no verification.
        self.unverified += [draft for draft in self._held if draft.sample.token not in self._ends]
        return [Emitted(draft.sample.token, draft.depth, None, draft.score) for draft in self._held]

    def deep_pass(self) -> Sequence[Emitted]:
        """Run the full depth for all positions; returns the drafts that it accepts and its own next token."""
        ladder, held = self._ladder, self._held
        first = ladder.length - 1 if not held else held[0].position
        before = self._take_unverified_before(first)
        full_model = _FullModel(ladder, self._sampler, first - len(before))
        outcomes = [full_model.outcome(draft) for draft in before]
        self.verified = self.verified.plus(outcomes)
        emitted: list[Emitted] = []
        # The tokens after position ``first`` are drafts.
        del self.tokens[first + 1 :]
        source = held[0].depth if held else None
        for draft in held:
            if draft.depth > 0:
                outcomes.append(full_model.outcome(draft))
            token, accepted = full_model.verify(draft, self.tokens)
            scored = full_model.score(draft.position, token)
            emitted.append(Emitted(token, ladder.full, draft.depth if accepted else None, scored))
            self.tokens.append(token)
            if not accepted or token in self._ends:
                break
        else:
            position, token = len(self.tokens) - 1, full_model.choose(self.tokens)
            emitted.append(Emitted(token, ladder.full, None, full_model.score(position, token)))
            self.tokens.append(token)
        ladder.rewind(len(self.tokens) - 1)
        self.drafted += len(held)
        right = sum(item.drafted_at is not None for item in emitted)
        self.accepted += right
        checked = min(right + 1, len(held))
        if source == LOOKUP:
            self.looked_up += right
            self._decider.looked_up(self._found, checked, right)
        elif source == GUESS:
            self.guessed += right
            self._decider.guessed(checked, right)
        self._decider.verified(outcomes)
        return emitted

    # --- inside ---

    def _may_hold(self, most: int) -> bool:
        """Whether there is room for one more draft."""
        ladder = self._ladder
        return len(self._held) + 1 < min(most, Head.MAX_ROWS - FEEDBACK_ROWS) and ladder.length < ladder.context

    def _foresee(self, source: int, tokens: Sequence[int]) -> None:
        """Hold ``tokens`` as drafts, and put them into the ladder. ``source``: LOOKUP or GUESS."""
        ladder = self._ladder
        self._held += [
            Draft(ladder.length - 1 + place, source, Sample(token, None), token, 0.0, False)
            for place, token in enumerate(tokens)
        ]
        self.tokens += tokens
        ladder.append(tokens)

    def _take_unverified_before(self, first: int) -> list[Draft]:
        """Remove and return the unverified tokens right before position ``first``, at most FEEDBACK_ROWS."""
        count = 0
        waiting = self.unverified
        while count < min(FEEDBACK_ROWS, len(waiting)) and waiting[-1 - count].position == first - 1 - count:
            count += 1
        taken = waiting[len(waiting) - count :]
        del waiting[len(waiting) - count :]
        return taken

    def _with_previous(self, found: Confidence, depth: int) -> Confidence:
        """Add ``previous`` to the confidence if the same exit gave the token before."""
        position = self._ladder.length - 1
        before, at, top = self._top
        self._top = (position, depth, found.top)
        return found._replace(previous=top) if (before, at) == (position - 1, depth) else found


class _FullModel:
    """The full model's answers from position ``start`` on: its likeliest tokens or, for sampling, its logits."""

    def __init__(self, ladder: Ladder, sampler: Sampler, start: int) -> None:
        self._start = start
        self._sampler = sampler
        self._logits: Logits | None = None
        if sampler.plain_greedy:
            self._answers = ladder.answers(ladder.full, start, ladder.length)
        else:
            self._logits = ladder.logits_view(ladder.full, start, ladder.length)
            self._answers = FromLogits(self._logits)

    def outcome(self, draft: Draft) -> Outcome:
        """Whether the exit's likeliest token is the full model's likeliest."""
        return _outcome(draft, self._answers, self._start)

    def verify(self, draft: Draft, tokens: Sequence[int]) -> tuple[int, bool]:
        """The token that follows ``tokens``, and whether it is the draft."""
        row = draft.position - self._start
        if self._logits is None:
            token = self._answers.token(row)
            return token, token == draft.sample.token
        return self._sampler.verify(draft.sample, self._logits[row], tokens)

    def choose(self, tokens: Sequence[int]) -> int:
        """The full model's own token after ``tokens``."""
        row = len(tokens) - 1 - self._start
        if self._logits is None:
            return self._answers.token(row)
        return self._sampler.choose(self._logits[row], tokens).token

    def score(self, position: int, token: int) -> TokenScore | None:
        """The log-probabilities of ``token`` after the token at ``position``, if the sampler tells them."""
        return None if self._logits is None else _scored(self._sampler, self._logits[position - self._start], token)


def _scored(sampler: Sampler, logits: Logits, token: int) -> TokenScore | None:
    return None if sampler.top_logprobs is None else score(logits, token, sampler.top_logprobs)


def _outcome(draft: Draft, answers: Answers, start: int) -> Outcome:
    """Compare a draft with the full model's ``answers``, whose first row is position ``start``."""
    agreed = draft.likeliest == answers.token(draft.position - start)
    return Outcome(draft.depth, draft.expected, agreed, draft.from_gate)
