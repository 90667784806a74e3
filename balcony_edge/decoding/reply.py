"""One reply: emits tokens one by one, at the depths and with the pauses that a decider chooses, and counts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

from balcony_controller import Decider, Signals
from balcony_controller.driver import Step, drive
from balcony_edge.decoding.loop import Decoder, Emitted, Verified
from balcony_edge.decoding.stops import Ending, Stops
from balcony_edge.decoding.turn import Turn
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.sampling import Sampler
from balcony_edge.engine.scores import TokenScore
from balcony_edge.text.text_stream import TextStream


class Token(NamedTuple):
    """One emitted token.

    Attributes:
        text: the text that it completes; empty for half a character. The last one brings what is left.
        id: its id in the vocabulary.
        depth: how many base layers were run for it.
        latency_ms: milliseconds since the token before it.
        drafted_at: the exit that drafted it, if a deep pass then accepted it; 0 (LOOKUP) if the draft was found in the
            text so far. Such tokens come several at a time.
        score: its log-probabilities at its depth, if the sampler tells them.
    """

    text: str
    id: int
    depth: int
    latency_ms: float
    drafted_at: int | None = None
    score: TokenScore | None = None


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

    ``turn``: who may use the ladder; ``wait``: whether to wait for another thread's turn to end. ``begin``: called as
    the reply begins; from then on the ladder is the reply's. ``new_signals``: what the sensors say now, or None if that
    is nothing new. ``on_step``: called after each step, with its tokens' texts. ``device``:
    held while a step runs, where several sessions share the weights; to wait for it counts as the step's time.
    ``clock``: sets the device's clock; the index of the one that it has, None where nothing sets clocks.
    """

    turn: Turn = field(default_factory=Turn)
    wait: bool = False
    begin: Callable[[Reply], None] = lambda reply: None
    new_signals: Callable[[], Signals | None] = lambda: None
    on_step: Callable[[Step[Emitted], Sequence[str]], None] | None = None
    clock: Callable[[int | None], int | None] = lambda wanted: None
    device: AbstractContextManager[None] = field(default_factory=nullcontext)


class Reply:
    """One reply. Iterate over it for its Tokens: up to an end token (not yielded), ``most`` tokens or a full context.
    ``ended_by`` then says why it ended.

    Nothing runs before the first token is asked for. With every decider a reply goes the same way: a pause if the
    decider wants one, a step, its time charged to the decider, new signals passed on to it.

    Args:
        ladder: the stages that decode; the reply replaces its sequence.
        decider: what decides about depth.
        sampler: how tokens are drawn.
        ids: token ids of the prompt.
        ends: token ids that end the reply.
        most: largest number of new tokens.
        stops: what ends the reply besides end tokens.
        text: where the tokens' text comes from; without it the texts are empty, and no stop text is found.
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
        stops: Stops | None = None,
        text: TextStream | None = None,
        fresh: bool = False,
        hooks: SessionHooks | None = None,
    ) -> None:
        self.ids = list(ids)
        self.figures = Figures(prompt_tokens=len(ids))
        self._ladder = ladder
        self._decider = decider
        self._sampler = sampler
        self._stops = stops or Stops()
        self._ends = ends | self._stops.ids
        self._model_ends = ends
        self._asked = most
        self._most = min(most, ladder.context - len(ids))
        self._text = text
        self._fresh = fresh
        self._hooks = hooks or SessionHooks()
        self._decoder: Decoder | None = None
        self._pieces: list[tuple[str, bool]] = []
        self._begun: float | None = None
        self._stopped = self._released = self._is_read = False
        self.ended_by: Ending | None = None

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
    def looked_up(self) -> int:
        """Number of accepted drafts that were found in the text."""
        return 0 if self._decoder is None else self._decoder.looked_up

    @property
    def guessed(self) -> int:
        """Number of accepted drafts that the draft stage guessed."""
        return 0 if self._decoder is None else self._decoder.guessed

    @property
    def accepted(self) -> int:
        """Number of drafts that a deep pass accepted."""
        return 0 if self._decoder is None else self._decoder.accepted

    def audit(self) -> None:
        """End the reply, and verify in one batched pass those of its tokens that no deep pass has verified.

        The pass is not charged to the reply. Does nothing if the ladder was released to somebody else. Raises
        SessionError if another thread's reply is running.
        """
        hooks = self._hooks
        with hooks.turn.call(hooks.wait, instead_of=self.release):
            self._stopped = self._released = True
            if self._decoder is not None:
                with hooks.device:
                    self._decoder.verify_emitted()

    def release(self) -> None:
        """End the reply, since somebody else needs the ladder. It can no longer be audited."""
        self._stopped = self._released = True
        if self._decoder is not None:
            self._decoder.unverified = []

    # --- decoding ---

    def __iter__(self) -> Generator[Token, None, None]:
        """The tokens. One whose text is still open waits for the next: what is left at the end then goes with it."""
        self._is_read = self._text is not None
        stops = self._stops
        waiting: Token | None = None
        with closing(self._read()) as tokens:
            for token, is_open in tokens:
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
            rest = stops.step(self._text.rest() if self._text is not None else "")
            if stops.found:
                self.ended_by = "stop"
            yield waiting._replace(text=waiting.text + rest + stops.rest())

    def _read(self) -> Generator[tuple[Token, bool], None, None]:
        """Each token up to an end token or a stop text, and whether its text is still open."""
        figures, stops = self.figures, self._stops
        with closing(self.steps()) as steps:
            for step in steps:
                latency_ms = step.elapsed_ms
                pieces = self._pieces if self._is_read else [("", False)] * len(step.emitted)
                for (piece, is_open), (token, depth, drafted_at, score) in zip(pieces, step.emitted, strict=True):
                    if token in self._ends:
                        return
                    figures.tokens += 1
                    figures.depth_counts[depth] += 1
                    piece = stops.step(piece)
                    if stops.found:
                        self.ended_by = "stop"
                    yield Token(piece, token, depth, latency_ms, drafted_at, score), is_open or stops.holds
                    if stops.found:
                        return
                    latency_ms = 0.0

    def steps(self) -> Generator[Step[Emitted], None, None]:
        """The reply step by step, for measurements: no text is made, and ``figures`` do not count emitted tokens.

        Raises RuntimeError the second time: a reply is decoded once. Raises SessionError where its session is closed or
        busy with a reply of another thread.
        """
        if self._decoder is not None:
            raise RuntimeError("a reply is decoded once: ask the session for another")
        self._begun = time.perf_counter()
        turn, end = self._hooks.turn, self.release
        turn.begin(end, self._hooks.wait)
        try:
            with turn.running():
                steps = self._begin()
            while True:
                with turn.running():
                    step = next(steps, None)
                    if step is None:
                        break
                    self._count(step)
                yield step
        finally:
            self.ended_by = self.ended_by or self._why()
            turn.finish(end)

    def _begin(self) -> Iterator[Step[Emitted]]:
        """Take over the ladder; returns the steps."""
        self._hooks.begin(self)
        ladder, sampler = self._ladder, self._sampler
        if self._fresh:
            ladder.rewind(0)
        self.figures.reused_tokens = ladder.resume(self.ids)
        self._decoder = Decoder(ladder, self._decider, sampler, self.ids, self._ends)
        pending = {stage.name: ladder.pending(stage) for stage in ladder.stages}
        return drive(
            self._decider,
            self,
            pending,
            self._most,
            repeatable=sampler.repeatable,
            greedy=sampler.plain_greedy,
        )

    def _count(self, step: Step[Emitted]) -> None:
        figures = self.figures
        figures.paused_ms += step.pause_ms
        if step.first:
            figures.first_ms = step.elapsed_ms
        else:
            figures.decode_ms += step.elapsed_ms
            figures.timed_tokens += len(step.emitted)
        if self._hooks.on_step is not None:
            self._hooks.on_step(step, [text for text, _ in self._pieces])

    def _why(self) -> Ending:
        """Why no further step follows."""
        tokens = self.tokens
        if tokens and tokens[-1] in self._ends:
            return "end token" if tokens[-1] in self._model_ends else "stop"
        if len(tokens) >= self._most:
            return "length" if self._most == self._asked else "context"
        return "deadline" if self._decider.out_of_time and not self._released else "interrupted"

    # --- what the loop of steps asks (driver.Machine) ---

    @property
    def ended(self) -> bool:
        """Whether an end token was emitted, or the reply was ended from outside."""
        return self._stopped

    def pause(self, pause_ms: float) -> None:
        """Wait for so many milliseconds."""
        with self._hooks.turn.idle():
            time.sleep(pause_ms / 1e3)

    def signals(self) -> Signals | None:
        """What the sensors say now; None if that is nothing new."""
        return self._hooks.new_signals()

    def clock(self, wanted: int | None) -> int | None:
        """Set the device's clock, where that is allowed; returns the one that it has."""
        return self._hooks.clock(wanted)

    def step(self, most: int) -> tuple[Sequence[Emitted], float]:
        """Decode one step: (emitted tokens, milliseconds). The time of the first step includes the prompt's."""
        assert self._decoder is not None
        begun = time.perf_counter() if self._begun is None else self._begun
        self._begun = None
        self._ladder.observer = self._decider.observe_run
        try:
            with self._hooks.device:
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


class TokenStream(Iterator[Token]):
    """The tokens of a reply. ``ended_by``: why it ended; None while it streams."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._tokens = iter(reply)

    def __next__(self) -> Token:
        return next(self._tokens)

    def close(self) -> None:
        """End the reply."""
        self._tokens.close()

    @property
    def ended_by(self) -> Ending | None:
        """Why the reply ended; None while it streams."""
        return self._reply.ended_by
