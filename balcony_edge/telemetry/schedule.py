"""How each source has been doing, and hence how often it is asked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from balcony_edge.telemetry.reading import UNITS, Clock, Reading
from balcony_edge.telemetry.sources import Source

STALE_PERIODS = 3
"""A value is held for this many periods of its source without a newer one, then it is unknown."""
FAILURES_BEFORE_BACKOFF = 3
LONGEST_BACKOFF_S = 5.0
"""A source that keeps failing is still asked this often: a GPU's node can appear late."""
SLOW_S = 0.25
"""A source that takes longer is demoted: it may take a twentieth of the thread's time."""
SLOW_SHARE = 1 / 20
LONGEST_PERIOD_S = 30.0
HUNG_S = 2.0
"""A source that has not answered for so long is left to its thread."""


@dataclass(slots=True)
class PolledSource:
    """A source, its last answer, and when it may be asked again."""

    source: Source
    tier_period_s: float
    period_s: float = 0.0
    failures: int = 0
    retry_at_s: float = -math.inf
    hung_since_s: float | None = None
    last: tuple[Reading, ...] = ()

    def __post_init__(self) -> None:
        self.period_s = self.tier_period_s

    @property
    def hold_s(self) -> float:
        """How long its values hold."""
        return STALE_PERIODS * self.period_s

    def due(self, now: float) -> bool:
        """Whether to ask it. A time to wait that no rule allows comes from a clock that went back."""
        if self.hung_since_s is not None:
            return False
        return not 0 < self.retry_at_s - now <= max(LONGEST_BACKOFF_S, LONGEST_PERIOD_S)

    def ask(self, clock: Clock) -> None:
        """Ask, and note how it went. Never raises."""
        begun_s, source = clock(), self.source
        try:
            self.last = tuple(source.read())
            if len(self.last) != len(source.signals):
                raise ValueError(f"{len(self.last)} readings for {len(source.signals)} signals")
        except Exception as error:  # one sensor's fault must not end the thread that serves all
            self.last = self._unknown(f"{type(error).__name__}: {error}", clock())
        now = clock()
        took_s = now - begun_s
        self.hung_since_s = None
        self.period_s = self.tier_period_s
        if any(reading.known for reading in self.last):
            self.failures, self.retry_at_s = 0, -math.inf
        else:
            self.failures += 1
            if self.failures >= FAILURES_BEFORE_BACKOFF:
                doublings = min(self.failures - FAILURES_BEFORE_BACKOFF + 1, 30)
                self.retry_at_s = now + min(self.tier_period_s * 2**doublings, LONGEST_BACKOFF_S)
        if took_s > SLOW_S:
            self.period_s = max(self.tier_period_s, min(took_s / SLOW_SHARE, LONGEST_PERIOD_S))
            self.retry_at_s = max(self.retry_at_s, now + self.period_s)

    def answer(self, now: float) -> tuple[Reading, ...]:
        """Its last answer; of one that hangs, that it hangs."""
        hung_since_s = self.hung_since_s
        if hung_since_s is not None:
            return self._unknown(f"it has not answered for {now - hung_since_s:.0f} s", now)
        return self.last

    def leave(self, since_s: float) -> None:
        """Note that it hangs in its thread; ``ask`` there takes the note back when it does answer."""
        self.hung_since_s = since_s

    def _unknown(self, reason: str, now: float) -> tuple[Reading, ...]:
        return tuple(Reading.unknown(UNITS[name], self.source.name, reason, now) for name in self.source.signals)


@dataclass(slots=True)
class Tier:
    """The signals of one rate, and who is asked for them."""

    period_s: float
    signals: tuple[str, ...]
    asked: list[PolledSource]
    due_s: float = -math.inf
    seen: set[str] = field(default_factory=set)
    """Signals that have been known: without a value these are stale, and not absent."""

    @property
    def hold_s(self) -> float:
        """How long a value of a source that is not slow holds."""
        return STALE_PERIODS * self.period_s

    def wait_s(self, now: float) -> float:
        """Seconds until it is due; none where the clock went back."""
        wait_s = self.due_s - now
        return wait_s if 0 < wait_s <= 1.5 * self.period_s else 0.0
