"""Decoding over one ladder: exits, deep passes and self-speculation, as a decider (the governor, as a rule) wants it.

A token that an exit has given and that was not emitted yet is a *draft*. A deep pass verifies the drafts held at its
positions, all in one batched call: it accepts those up to the first wrong one, emits them and one token of the full
model's own, and rewinds the rest. Plain decoding, early exits and lossless self-speculation are the same loop under
different verdicts. The order of the questions is ``balcony_controller.driver.decode_step``'s, as in replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from balcony_controller import Confidence, Decider, Outcome
from balcony_controller.driver import decode_step
from balcony_edge.engine.answers import Answers, FromLogits, confidence
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.sampling import Logits, Sample, Sampler
from balcony_edge.engine.stage import Head

# A deep pass also looks at so many exits' tokens before its own positions: feedback for a few more rows of the head.
FEEDBACK_ROWS = 4


class Draft(NamedTuple):
    """A token of the exit at ``depth``, after the token at ``position``.

    ``likeliest``: the exit's likeliest token, whatever was drawn; ``expected``: the agreement forecast for it.
    ``from_gate``: it is not the exit's token, but what its gate found likeliest.
    """

    position: int
    depth: int
    sample: Sample
    likeliest: int
    expected: float
    from_gate: bool


class Emitted(NamedTuple):
    """A token that leaves: the depth that it is of, and the exit whose draft a deep pass accepted, if it was one."""

    token: int
    depth: int
    drafted_at: int | None = None


class Checked(NamedTuple):
    """How many emitted tokens of exits a deep pass has compared with the full model's choices, and how many agreed."""

    tokens: int = 0
    agreed: int = 0

    def plus(self, outcomes: Sequence[Outcome]) -> Checked:
        """With these added."""
        if not outcomes:
            return self
        return Checked(self.tokens + len(outcomes), self.agreed + sum(outcome.agreed for outcome in outcomes))


class Decoder:
    """One reply's tokens: ``tokens`` begins as the prompt (already in the ladder) and grows by what is emitted.

    ``unverified`` are exits' tokens that were emitted and that no deep pass has seen; ``checked`` counts those that one
    has; ``drafted`` and ``accepted`` count the drafts of self-speculation.
    """

    def __init__(
        self, ladder: Ladder, decider: Decider, sampler: Sampler, prompt: Sequence[int], ends: frozenset[int]
    ) -> None:
        self._ladder = ladder
        self._decider = decider
        self._sampler = sampler
        self._ends = ends
        self.full = ladder.full
        self.tokens = list(prompt)
        self.unverified: list[Draft] = []
        self.checked = Checked()
        self.drafted = self.accepted = 0
        self._held: list[Draft] = []
        self._candidate = Draft(0, 0, Sample(0, None), 0, 0.0, False)
        self._top: tuple[int, int, float] = (-1, 0, 0.0)

    def step(self, most: int) -> Sequence[Emitted]:
        """The next tokens, one at least and ``most`` at the most, at the price of one deep pass at the most.

        The last one is in ``tokens``, but not yet in the ladder.
        """
        ladder = self._ladder
        if len(self.tokens) > ladder.length:
            ladder.append(self.tokens[ladder.length :])
        self._held = []
        return decode_step(self._decider, self, most)

    def verify_emitted(self) -> None:
        """Compare all emitted tokens that no deep pass has seen with the full model's choices."""
        waiting, self.unverified = self.unverified, []
        outcomes: list[Outcome] = []
        while waiting:
            # Deep passes have left gaps: as many as lie within one call of the head.
            first = waiting[0].position
            group = [draft for draft in waiting if draft.position < first + Head.MAX_ROWS]
            waiting = waiting[len(group) :]
            answers = self._ladder.answers(self._ladder.full, first, group[-1].position + 1)
            outcomes += [_outcome(draft, answers, first) for draft in group]
        self.checked = self.checked.plus(outcomes)
        self._decider.verified(outcomes)

    # --- what a step asks (driver.StepDecoder) ---

    def look(self, split: int) -> float | None:
        """Advance the stages up to an exit; its gate's logit for the last token."""
        ladder = self._ladder
        ladder.outputs(split, ladder.length)
        return ladder.gate(split)

    def ask(self, depth: int, takes_gate_draft: bool) -> Confidence | None:
        """An exit's token, or its gate's draft, becomes the candidate; how sure the exit is, None of a gate's draft."""
        ladder = self._ladder
        position = ladder.length - 1
        found: Confidence | None
        if self._sampler.plain_greedy:
            # Of sampled tokens a gate's one draft would be the right one too seldom.
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
        self._candidate = Draft(position, depth, sample, likeliest, 0.0, False)
        return self._with_previous(found, depth)

    def can_hold(self, most: int) -> bool:
        """Not an end token, nor beyond the context, nor more drafts than tokens are wanted or the head has rows."""
        ladder = self._ladder
        return (
            len(self._held) + 1 < min(most, Head.MAX_ROWS - FEEDBACK_ROWS)
            and ladder.length < ladder.context
            and self._candidate.sample.token not in self._ends
        )

    def take(self, expected: float) -> None:
        """The candidate joins the drafts of this step."""
        draft = self._candidate._replace(expected=expected)
        self._held.append(draft)
        self.tokens.append(draft.sample.token)

    def go_on(self) -> None:
        """The draft taken last is in the ladder: the next position follows it."""
        self._ladder.append(self.tokens[-1:])

    def emit(self) -> Sequence[Emitted]:
        """The drafts of this step, unverified."""
        # An end token is decided, but not emitted to anybody.
        self.unverified += [draft for draft in self._held if draft.sample.token not in self._ends]
        return [Emitted(draft.sample.token, draft.depth) for draft in self._held]

    def deep_pass(self) -> Sequence[Emitted]:
        """Full depth for all positions; the drafts that it accepts, and its own token."""
        ladder, held = self._ladder, self._held
        first = ladder.length - 1 if not held else held[0].position
        before = self._contiguous(first)
        truth = _Truth(ladder, self._sampler, first - len(before))
        outcomes = [truth.outcome(draft) for draft in before]
        self.checked = self.checked.plus(outcomes)
        emitted: list[Emitted] = []
        # Of the tokens in the ladder, those up to and with position ``first`` are certain.
        del self.tokens[first + 1 :]
        for draft in held:
            outcomes.append(truth.outcome(draft))
            token, accepted = truth.verify(draft, self.tokens)
            emitted.append(Emitted(token, ladder.full, draft.depth if accepted else None))
            self.tokens.append(token)
            if not accepted or token in self._ends:
                break
        else:
            token = truth.choose(self.tokens)
            emitted.append(Emitted(token, ladder.full))
            self.tokens.append(token)
        ladder.rewind(len(self.tokens) - 1)
        self.drafted += len(held)
        self.accepted += sum(item.drafted_at is not None for item in emitted)
        self._decider.verified(outcomes)
        return emitted

    # --- inside ---

    def _contiguous(self, first: int) -> list[Draft]:
        """Emitted but unverified tokens right before position ``first``, taken off the list."""
        count = 0
        waiting = self.unverified
        while count < min(FEEDBACK_ROWS, len(waiting)) and waiting[-1 - count].position == first - 1 - count:
            count += 1
        taken = waiting[len(waiting) - count :]
        del waiting[len(waiting) - count :]
        return taken

    def _with_previous(self, found: Confidence, depth: int) -> Confidence:
        """With ``previous`` where the same exit gave the token before."""
        position = self._ladder.length - 1
        before, at, top = self._top
        self._top = (position, depth, found.top)
        return found._replace(previous=top) if (before, at) == (position - 1, depth) else found


class _Truth:
    """The full model's word on the positions from ``start`` on, by its logits or, greedy, by its likeliest tokens."""

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
        """Whether the exit's likeliest token is the full model's."""
        return _outcome(draft, self._answers, self._start)

    def verify(self, draft: Draft, tokens: Sequence[int]) -> tuple[int, bool]:
        """(token, whether it is the draft) that follows ``tokens``."""
        row = draft.position - self._start
        if self._logits is None:
            token = self._answers.token(row)
            return token, token == draft.sample.token
        return self._sampler.verify(draft.sample, self._logits[row], tokens)

    def choose(self, tokens: Sequence[int]) -> int:
        """The token after ``tokens``."""
        row = len(tokens) - 1 - self._start
        if self._logits is None:
            return self._answers.token(row)
        return self._sampler.choose(self._logits[row], tokens).token


def _outcome(draft: Draft, answers: Answers, start: int) -> Outcome:
    """``answers``: the full model's, of positions from ``start`` on."""
    agreed = draft.likeliest == answers.token(draft.position - start)
    return Outcome(draft.depth, draft.expected, agreed, draft.from_gate)
