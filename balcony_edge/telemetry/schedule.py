"""How often each source of signals is polled: rarely if it is slow, ever more rarely while it fails."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from balcony_edge.telemetry.reading import UNITS, Clock, Reading
from balcony_edge.telemetry.sources import Source

STALE_PERIODS = 3
"""A value is valid for this many periods of its source; without a newer one it is unknown then."""
FAILURES_BEFORE_BACKOFF = 3
"""After so many failures in a row a source is polled less and less often."""
LONGEST_BACKOFF_S = 5.0
"""But at least this often: a GPU's files can appear late."""
SLOW_S = 0.25
"""A source that takes longer to read is slow, and is polled less often."""
SLOW_SHARE = 1 / 20
"""The share of the thread's time that a slow source may take."""
LONGEST_PERIOD_S = 30.0
"""The longest period of a slow source."""
HUNG_S = 2.0
"""A source that has not answered for so long hangs; another thread then polls the others."""


@dataclass(slots=True)
class PolledSource:
    """A source, its last readings, and when it may be polled again.

    Attributes:
        tier_period_s, period_s: seconds between polls as its tier has it, and as it is now.
        failures: polls in a row that gave no value.
        retry_at_s: not to be polled before this time.
        hung_since_s: when the poll began that has not ended yet; None if it does not hang.
        last: its last readings.
    """

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
        """Seconds for which its values are valid."""
        return STALE_PERIODS * self.period_s

    def due(self, now: float) -> bool:
        """Whether to poll it now."""
        if self.hung_since_s is not None:
            return False
        # A longer wait than any rule gives means that the clock went back.
        return not 0 < self.retry_at_s - now <= max(LONGEST_BACKOFF_S, LONGEST_PERIOD_S)

    def poll(self, clock: Clock) -> None:
        """Read the source and decide when to read it again. Never raises: a fault becomes unknown readings."""
        begun_s, source = clock(), self.source
        try:
            self.last = tuple(source.read())
            if len(self.last) != len(source.signals):
                raise ValueError(f"{len(self.last)} readings for {len(source.signals)} signals")
        except Exception as error:  # a fault of one sensor must not end the thread that polls all
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

    def readings(self, now: float) -> tuple[Reading, ...]:
        """Its last readings; unknown ones while it hangs."""
        hung_since_s = self.hung_since_s
        if hung_since_s is not None:
            return self._unknown(f"it has not answered for {now - hung_since_s:.0f} s", now)
        return self.last

    def mark_hung(self, since_s: float) -> None:
        """Note that it hangs since then. The ``poll`` that hangs removes the note if it ends after all."""
        self.hung_since_s = since_s

    def _unknown(self, reason: str, now: float) -> tuple[Reading, ...]:
        return tuple(Reading.unknown(UNITS[name], self.source.name, reason, now) for name in self.source.signals)


@dataclass(slots=True)
class Tier:
    """The signals that are polled at one rate, and their sources. It is next due at ``due_s``."""

    period_s: float
    signals: tuple[str, ...]
    sources: list[PolledSource]
    due_s: float = -math.inf
    seen: set[str] = field(default_factory=set)
    """Signals that had a value once. If they have none now, they are stale and not absent."""

    @property
    def hold_s(self) -> float:
        """Seconds for which a value is valid, if its source is not slow."""
        return STALE_PERIODS * self.period_s

    def wait_s(self, now: float) -> float:
        """Seconds until it is due; 0 if the clock went back."""
        wait_s = self.due_s - now
        return wait_s if 0 < wait_s <= 1.5 * self.period_s else 0.0
