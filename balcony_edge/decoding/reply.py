"""One reply under a decider: its tokens as they leave, paused and charged as the decider says, and its figures."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from balcony_controller import Decider, Signals
from balcony_controller.driver import Step, drive
from balcony_edge.decoding.loop import Checked, Decoder, Emitted
from balcony_edge.decoding.text import TextStream
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.sampling import Sampler


class Token(NamedTuple):
    """One token as it leaves. ``text`` may be empty (half a character); ``depth`` counts the base layers run.

    ``latency_ms`` is the wait since the token before it. ``drafted_at``: the exit that drafted a token of the full
    model's, which a deep pass then accepted; such tokens come several at a time.
    """

    text: str
    id: int
    depth: int
    latency_ms: float
    drafted_at: int | None = None


@dataclass
class Figures:
    """What a reply has come to so far. Times in milliseconds; those of the first step are the prompt's.

    ``timed_tokens`` took ``decode_ms``: all but the first step's. An end token is timed, but not among ``tokens``.
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
class Surroundings:
    """What a reply needs of the session around it.

    ``take``: called as the reply begins, which then has the ladder to itself. ``look``: a new look at the machine,
    or None. ``on_step``: told of each step after the decider has been.
    """

    take: Callable[[Reply], None] = lambda reply: None
    look: Callable[[], Signals | None] = lambda: None
    on_step: Callable[[Step[Emitted]], None] | None = None


class Reply:
    """Iterate over it for its Tokens, up to an end token (not yielded), ``most`` tokens or a full context.

    Begun by the first token asked for. Whatever the decider, a reply is driven the same way: a pause where it wants
    one, a step, the account, the sensors. ``text``: where pieces of text come from; without it they are empty.
    ``fresh``: nothing that stands in the caches is used again.
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
        around: Surroundings | None = None,
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
        self._around = around or Surroundings()
        self._decoder: Decoder | None = None
        self._pieces: list[str] = []
        self._begun: float | None = None
        self._stopped = self._taken = self._is_read = False

    # --- what came of it ---

    @property
    def tokens(self) -> list[int]:
        """The token ids emitted so far, an end token included."""
        return [] if self._decoder is None else self._decoder.tokens[len(self.ids) :]

    @property
    def checked(self) -> Checked:
        """Emitted tokens of exits that a deep pass has compared with the full model's."""
        return Checked() if self._decoder is None else self._decoder.checked

    @property
    def drafted(self) -> int:
        """Drafts that were held for a deep pass."""
        return 0 if self._decoder is None else self._decoder.drafted

    @property
    def accepted(self) -> int:
        """Those of them that were the full model's tokens."""
        return 0 if self._decoder is None else self._decoder.accepted

    def audit(self) -> None:
        """End the reply and compare what no deep pass has seen with the full model's tokens, in one batched pass.

        Not charged to the reply. Does nothing where another reply has taken the ladder.
        """
        self._stopped = self._taken = True
        if self._decoder is not None:
            self._decoder.verify_emitted()

    def release(self) -> None:
        """The ladder is somebody else's from now on: the reply ends and can no longer be audited."""
        self._stopped = self._taken = True
        if self._decoder is not None:
            self._decoder.unverified = []

    # --- decoding ---

    def __iter__(self) -> Iterator[Token]:
        figures, self._is_read = self.figures, self._text is not None
        for step in self.steps():
            latency_ms = step.elapsed_ms
            pieces = self._pieces if self._is_read else [""] * len(step.emitted)
            for piece, (token, depth, drafted_at) in zip(pieces, step.emitted, strict=True):
                if token in self._ends:
                    return
                figures.tokens += 1
                figures.depth_counts[depth] += 1
                yield Token(piece, token, depth, latency_ms, drafted_at)
                if self._taken:
                    return
                latency_ms = 0.0

    def steps(self) -> Iterator[Step[Emitted]]:
        """The reply step by step, for who times it: no text is made, and ``figures`` count no tokens by depth.

        A reply is decoded once: RuntimeError the second time.
        """
        if self._decoder is not None:
            raise RuntimeError("a reply is decoded once: ask the session for another")
        self._begun = time.perf_counter()
        self._around.take(self)
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
        on_step = self._around.on_step
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

    # --- what the driver runs on (driver.Machine) ---

    @property
    def ended(self) -> bool:
        """An end token was emitted, or the ladder was taken."""
        return self._stopped

    def pause(self, pause_ms: float) -> None:
        """Wait."""
        time.sleep(pause_ms / 1e3)

    def signals(self) -> Signals | None:
        """A new look at the machine, if there is one."""
        return self._around.look()

    def step(self, most: int) -> tuple[Sequence[Emitted], float]:
        """One step on the ladder: (tokens, milliseconds); the first one's are the prompt's too."""
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
            self._pieces = [text.step(item.token) if item.token not in ends else "" for item in emitted]
        return emitted, (time.perf_counter() - begun) * 1e3
