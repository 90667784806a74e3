"""One reply: emits tokens one by one, at the depths and with the pauses that a decider chooses, and counts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from balcony_controller import Decider, Signals
from balcony_controller.driver import Step, drive
from balcony_edge.decoding.loop import Decoder, Emitted, Verified
from balcony_edge.decoding.text_stream import TextStream
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.sampling import Sampler


class Token(NamedTuple):
    """One emitted token.

    Attributes:
        text: the text that it completes; empty for half a character. The last one brings what is left.
        id: its id in the vocabulary.
        depth: how many base layers were run for it.
        latency_ms: milliseconds since the token before it.
        drafted_at: the exit that drafted it, if a deep pass then accepted it. Such tokens come several at a time.
    """

    text: str
    id: int
    depth: int
    latency_ms: float
    drafted_at: int | None = None


@dataclass
class Figures:
    """Counts and times of a reply so far; times are in milliseconds.

    Attributes:
        prompt_tokens: tokens of the prompt; ``reused_tokens`` of them were still in the caches.
        tokens, depth_counts: emitted tokens, in all and by depth. An end token does not count.
        first_ms: time of the first step, which runs the prompt.
        timed_tokens, decode_ms: tokens and time of all later steps. Here an end token counts.
        paused_ms: time waited between steps.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    tokens: int = 0
    timed_tokens: int = 0
    first_ms: float | None = None
    decode_ms: float = 0.0
    paused_ms: float = 0.0
    depth_counts: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True)
class SessionHooks:
    """What a reply needs from the session around it.

    ``begin``: called as the reply begins; from then on the ladder is the reply's. ``new_signals``: what the sensors say
    now, or None if that is nothing new. ``on_step``: called after each step, once the decider knows of it.
    """

    begin: Callable[[Reply], None] = lambda reply: None
    new_signals: Callable[[], Signals | None] = lambda: None
    on_step: Callable[[Step[Emitted]], None] | None = None


class Reply:
    """One reply. Iterate over it for its Tokens: up to an end token (not yielded), ``most`` tokens or a full context.

    Nothing runs before the first token is asked for. With every decider a reply goes the same way: a pause if the
    decider wants one, a step, its time charged to the decider, new signals passed on to it.

    Args:
        ladder: the stages that decode; the reply replaces its sequence.
        decider: what decides about depth.
        sampler: how tokens are drawn.
        ids: token ids of the prompt.
        ends: token ids that end the reply.
        most: largest number of new tokens.
        text: where the tokens' text comes from; without it the texts are empty.
        fresh: run the whole prompt, even where the caches already hold its beginning.
        hooks: the session around the reply.
    """

    def __init__(
        self,
        ladder: Ladder,
        decider: Decider,
        sampler: Sampler,
        ids: Sequence[int],
        ends: frozenset[int],
        most: int,
        *,
        text: TextStream | None = None,
        fresh: bool = False,
        hooks: SessionHooks | None = None,
    ) -> None:
        self.ids = list(ids)
        self.figures = Figures(prompt_tokens=len(ids))
        self._ladder = ladder
        self._decider = decider
        self._sampler = sampler
        self._ends = ends
        self._most = min(most, ladder.context - len(ids))
        self._text = text
        self._fresh = fresh
        self._hooks = hooks or SessionHooks()
        self._decoder: Decoder | None = None
        self._pieces: list[tuple[str, bool]] = []
        self._begun: float | None = None
        self._stopped = self._released = self._is_read = False

    # --- what came of it ---

    @property
    def tokens(self) -> list[int]:
        """The token ids emitted so far, including an end token."""
        return [] if self._decoder is None else self._decoder.tokens[len(self.ids) :]

    @property
    def verified(self) -> Verified:
        """Counts of the tokens emitted at exits that a deep pass has compared with the full model's since."""
        return Verified() if self._decoder is None else self._decoder.verified

    @property
    def drafted(self) -> int:
        """Number of drafts that were held for a deep pass."""
        return 0 if self._decoder is None else self._decoder.drafted

    @property
    def accepted(self) -> int:
        """Number of drafts that a deep pass accepted."""
        return 0 if self._decoder is None else self._decoder.accepted

    def audit(self) -> None:
        """End the reply, and verify in one batched pass those of its tokens that no deep pass has verified.

        The pass is not charged to the reply. Does nothing if the ladder was released to somebody else.
        """
        self._stopped = self._released = True
        if self._decoder is not None:
            self._decoder.verify_emitted()

    def release(self) -> None:
        """End the reply, since somebody else needs the ladder. It can no longer be audited."""
        self._stopped = self._released = True
        if self._decoder is not None:
            self._decoder.unverified = []

    # --- decoding ---

    def __iter__(self) -> Iterator[Token]:
        """The tokens. One whose text is still open waits for the next: what is left at the end then goes with it."""
        self._is_read = self._text is not None
        waiting: Token | None = None
        for token, is_open in self._read():
            if waiting is not None:
                yield waiting
                if self._released:
                    return
            waiting = token
            if not is_open:
                yield waiting
                waiting = None
                if self._released:
                    return
        if waiting is not None:
            yield waiting._replace(text=waiting.text + (self._text.rest() if self._text is not None else ""))

    def _read(self) -> Iterator[tuple[Token, bool]]:
        """Each token up to an end token, and whether its text is still open."""
        figures = self.figures
        for step in self.steps():
            latency_ms = step.elapsed_ms
            pieces = self._pieces if self._is_read else [("", False)] * len(step.emitted)
            for (piece, is_open), (token, depth, drafted_at) in zip(pieces, step.emitted, strict=True):
                if token in self._ends:
                    return
                figures.tokens += 1
                figures.depth_counts[depth] += 1
                yield Token(piece, token, depth, latency_ms, drafted_at), is_open
                latency_ms = 0.0

    def steps(self) -> Iterator[Step[Emitted]]:
        """The reply step by step, for measurements: no text is made, and ``figures`` do not count emitted tokens.

        Raises RuntimeError the second time: a reply is decoded once.
        """
        if self._decoder is not None:
            raise RuntimeError("a reply is decoded once: ask the session for another")
        self._begun = time.perf_counter()
        self._hooks.begin(self)
        ladder, sampler, figures = self._ladder, self._sampler, self.figures
        if self._fresh:
            ladder.rewind(0)
        figures.reused_tokens = ladder.resume(self.ids)
        self._decoder = Decoder(ladder, self._decider, sampler, self.ids, self._ends)
        pending = {stage.name: ladder.pending(stage) for stage in ladder.stages}
        steps = drive(
            self._decider,
            self,
            pending,
            self._most,
            repeatable=sampler.repeatable,
            greedy=sampler.plain_greedy,
        )
        on_step = self._hooks.on_step
        for step in steps:
            figures.paused_ms += step.pause_ms
            if step.first:
                figures.first_ms = step.elapsed_ms
            else:
                figures.decode_ms += step.elapsed_ms
                figures.timed_tokens += len(step.emitted)
            if on_step is not None:
                on_step(step)
            yield step

    # --- what the loop of steps asks (driver.Machine) ---

    @property
    def ended(self) -> bool:
        """Whether an end token was emitted, or the reply was ended from outside."""
        return self._stopped

    def pause(self, pause_ms: float) -> None:
        """Wait for so many milliseconds."""
        time.sleep(pause_ms / 1e3)

    def signals(self) -> Signals | None:
        """What the sensors say now; None if that is nothing new."""
        return self._hooks.new_signals()

    def step(self, most: int) -> tuple[Sequence[Emitted], float]:
        """Decode one step: (emitted tokens, milliseconds). The time of the first step includes the prompt's."""
        assert self._decoder is not None
        begun = time.perf_counter() if self._begun is None else self._begun
        self._begun = None
        self._ladder.observer = self._decider.observe_run
        try:
            emitted = self._decoder.step(most)
        finally:
            self._ladder.observer = None
        ends, text = self._ends, self._text
        if emitted[-1].token in ends:
            self._stopped = True
        if self._is_read and text is not None:
            self._pieces = [
                (text.step(item.token), text.holds) if item.token not in ends else ("", False) for item in emitted
            ]
        return emitted, (time.perf_counter() - begun) * 1e3
