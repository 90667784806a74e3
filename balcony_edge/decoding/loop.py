"""The decode loop: exits, deep passes and speculation over one ladder, as a policy (the governor, as a rule) decides.

A token that an exit has given and that was not shown yet is a *draft*. A deep pass verifies the drafts held at its
positions, all in one batched call: their accepted prefix and one token of the full model's own are shown, the rest is
rewound. Plain decoding, early exits and lossless self-speculation are the same loop under different verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from balcony_controller import Confidence, Outcome, Verdict
from balcony_edge.engine.answers import Answers, FromLogits, confidence
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.sampling import Choice, Logits, Sampler
from balcony_edge.engine.stage import Head

# A deep pass also looks at so many exits' tokens before its own positions: feedback for a few more rows of the head.
FEEDBACK_ROWS = 4


class Draft(NamedTuple):
    """A token of the exit at ``depth``, after the token at ``position``.

    ``likeliest``: the exit's likeliest token, whatever was drawn; ``expected``: the agreement forecast for it.
    ``gates``: it is not the exit's token, but what its gate found likeliest.
    """

    position: int
    depth: int
    choice: Choice
    likeliest: int
    expected: float
    gates: bool


class Shown(NamedTuple):
    """A token to be shown: the depth that it is of, and the exit that drafted it where a deep pass confirmed that."""

    token: int
    depth: int
    drafted_at: int | None = None


class Checked(NamedTuple):
    """How many shown tokens of exits a deep pass has compared with the full model's choices, and how many agreed."""

    tokens: int = 0
    agreed: int = 0

    def plus(self, outcomes: Sequence[Outcome]) -> Checked:
        """With these added."""
        if not outcomes:
            return self
        return Checked(self.tokens + len(outcomes), self.agreed + sum(outcome.agreed for outcome in outcomes))


class Policy(Protocol):
    """What decides for the decode loop: the part of Governor that it calls (see there)."""

    @property
    def expected(self) -> float:
        """The agreement forecast for the token judged last."""
        ...

    @property
    def peeks(self) -> bool:
        """Whether the exit taken gives its gate's draft, for which the head is not asked, instead of its token."""
        ...

    def first_split(self) -> int:
        """The shallowest depth worth looking at."""
        ...

    def stop_at(self, split: int, gate_logit: float | None) -> tuple[int | None, float]:
        """(None, …) to take the exit here, or (the next depth to look at, …)."""
        ...

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """What to do with an exit's token."""
        ...

    def verified(self, outcomes: Iterable[Outcome]) -> None:
        """A deep pass has compared tokens of exits with the full model's."""
        ...


class Decoder:
    """One reply: ``tokens`` begins as the prompt (already in the ladder) and grows by what is shown.

    ``unverified`` are exits' tokens that were shown and that no deep pass has seen; ``checked`` counts those that one
    has; ``drafts`` counts (made, kept) of speculation.
    """

    def __init__(
        self, ladder: Ladder, policy: Policy, sampler: Sampler, prompt: Sequence[int], ends: frozenset[int]
    ) -> None:
        self._ladder = ladder
        self._policy = policy
        self._sampler = sampler
        self._ends = ends
        self.tokens = list(prompt)
        self.unverified: list[Draft] = []
        self.checked = Checked()
        self.drafts = (0, 0)
        self._top: tuple[int, int, float] = (-1, 0, 0.0)

    def step(self, most: int) -> list[Shown]:
        """The next tokens, one at least and ``most`` at the most, at the price of one deep pass at the most.

        The last one is in ``tokens``, but not yet in the ladder.
        """
        ladder, policy = self._ladder, self._policy
        if len(self.tokens) > ladder.length:
            ladder.append(self.tokens[ladder.length :])
        held: list[Draft] = []
        while True:
            depth, gate = self._look()
            if depth == ladder.full:
                return self._deep_pass(held)
            choice, likeliest, confidence = self._ask(depth)
            verdict = policy.judge(depth, gate, confidence, held=len(held))
            if verdict in (Verdict.HOLD, Verdict.VERIFY) and (
                # The deep pass at this very position tells as much.
                len(held) + 1 >= min(most, Head.MAX_ROWS - FEEDBACK_ROWS)
                or ladder.length >= ladder.context
                or choice.token in self._ends
            ):
                verdict = Verdict.DEEPEN
            if verdict is Verdict.DEEPEN:
                return self._deep_pass(held)
            held.append(Draft(ladder.length - 1, depth, choice, likeliest, policy.expected, confidence is None))
            self.tokens.append(choice.token)
            if verdict is Verdict.EMIT:
                # An end token is decided, but not shown.
                self.unverified += [draft for draft in held if draft.choice.token not in self._ends]
                return [Shown(draft.choice.token, draft.depth) for draft in held]
            ladder.append([choice.token])
            if verdict is Verdict.VERIFY:
                return self._deep_pass(held)

    def verify_shown(self) -> None:
        """Compare all shown tokens that no deep pass has seen with the full model's choices."""
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
        self._policy.verified(outcomes)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _look(self) -> tuple[int, float | None]:
        """(depth to go to, its gate's logit): the stages of every exit that was looked at have been advanced."""
        ladder, policy = self._ladder, self._policy
        split = policy.first_split()
        while split != ladder.full:
            ladder.outputs(split, ladder.length)
            gate = ladder.gate(split)
            following, _ = policy.stop_at(split, gate)
            if following is None:
                return split, gate
            split = following
        return split, None

    def _ask(self, depth: int) -> tuple[Choice, int, Confidence | None]:
        """An exit's token, its likeliest one and how sure it is of that; None with a draft of its gate's."""
        ladder = self._ladder
        if self._sampler.plain_greedy:
            # Of sampled tokens a gate's one draft would be the right one too seldom.
            if self._policy.peeks and (draft := ladder.draft(depth)) is not None:
                return Choice(draft, None), draft, None
            answers = ladder.answers(depth, ladder.length - 1, ladder.length)
            token = answers.token(0)
            return Choice(token, None), token, self._confidence(answers.confidence(0), depth)
        logits = ladder.next_logits(depth)
        choice = self._sampler.choose(logits, self.tokens)
        likeliest = int(logits.argmax())
        return choice, likeliest, self._confidence(confidence(logits, likeliest), depth)

    def _deep_pass(self, held: list[Draft]) -> list[Shown]:
        """Full depth for all positions; the drafts that it confirms, and its own token."""
        ladder = self._ladder
        first = ladder.length - 1 if not held else held[0].position
        before = self._contiguous(first)
        truth = _Truth(ladder, self._sampler, first - len(before))
        outcomes = [truth.outcome(draft) for draft in before]
        self.checked = self.checked.plus(outcomes)
        shown: list[Shown] = []
        # Of the tokens in the ladder, those up to and with position ``first`` are certain.
        del self.tokens[first + 1 :]
        for draft in held:
            outcomes.append(truth.outcome(draft))
            token, kept = truth.verify(draft, self.tokens)
            shown.append(Shown(token, ladder.full, draft.depth if kept else None))
            self.tokens.append(token)
            if not kept or token in self._ends:
                break
        else:
            token = truth.choose(self.tokens)
            shown.append(Shown(token, ladder.full))
            self.tokens.append(token)
        ladder.rewind(len(self.tokens) - 1)
        kept_drafts = sum(item.drafted_at is not None for item in shown)
        self.drafts = (self.drafts[0] + len(held), self.drafts[1] + kept_drafts)
        self._policy.verified(outcomes)
        return shown

    def _contiguous(self, first: int) -> list[Draft]:
        """Shown but unverified tokens right before position ``first``, taken off the list."""
        count = 0
        waiting = self.unverified
        while count < min(FEEDBACK_ROWS, len(waiting)) and waiting[-1 - count].position == first - 1 - count:
            count += 1
        taken = waiting[len(waiting) - count :]
        del waiting[len(waiting) - count :]
        return taken

    def _confidence(self, found: Confidence, depth: int) -> Confidence:
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
            return token, token == draft.choice.token
        return self._sampler.verify(draft.choice, self._logits[row], tokens)

    def choose(self, tokens: Sequence[int]) -> int:
        """The token after ``tokens``."""
        row = len(tokens) - 1 - self._start
        if self._logits is None:
            return self._answers.token(row)
        return self._sampler.choose(self._logits[row], tokens).token


def _outcome(draft: Draft, answers: Answers, start: int) -> Outcome:
    """``answers``: the full model's, of positions from ``start`` on."""
    agreed = draft.likeliest == answers.token(draft.position - start)
    return Outcome(draft.depth, draft.expected, agreed, draft.gates)
