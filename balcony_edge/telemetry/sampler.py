"""One daemon thread asks the sensors; everybody else looks at the last snapshot.

fast tier, 5 Hz    cpu_load, gpu_load, gpu_clock_hz
slow tier, 1 Hz    power_w, temperature_c, battery_level, battery_power_w, on_mains
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

from balcony_edge.telemetry.injected import BatterySource
from balcony_edge.telemetry.reading import UNITS, Clock, Reading, Snapshot
from balcony_edge.telemetry.sources import FAST_SIGNALS, Source, device_sources

STALE_PERIODS = 3
"""A value is held for this many periods of its tier without a newer one, then it is unknown."""
FAILURES_BEFORE_BACKOFF = 3
LONGEST_BACKOFF_S = 5.0
"""A source that keeps failing is still asked this often: a GPU's node can appear late."""
GPU_LOAD_SMOOTHING_S = 0.75
"""Time constant for the GPU's load, which swings between 40 and 99 % within one token's work."""


@dataclass(slots=True)
class _Asked:
    """A source and how it has been doing."""

    source: Source
    failures: int = 0
    retry_at_s: float = -math.inf
    last: tuple[Reading, ...] = ()


@dataclass(slots=True)
class _Tier:
    period_s: float
    signals: tuple[str, ...]
    asked: list[_Asked]
    due_s: float = -math.inf
    seen: set[str] = field(default_factory=set)


class Sampler:
    """Keeps ``snapshot`` fresh while it runs: ``with Sampler() as sensors: ... sensors.snapshot``.

    ``sources`` default to this machine's (below ``root``, with ``battery`` in place of the kernel's batteries
    and without NVIDIA's library if ``nvml`` is false). Sources of one signal are alternatives in the order
    given. Rates are in Hz. Starting only starts a thread: the first probe of anything happens there.

    Raises:
        ValueError: if a rate is not positive.
    """

    def __init__(
        self,
        sources: Sequence[Source] | None = None,
        *,
        root: str | os.PathLike[str] = "/",
        battery: BatterySource | None = None,
        nvml: bool = True,
        fast_hz: float = 5.0,
        slow_hz: float = 1.0,
        clock: Clock = time.monotonic,
    ) -> None:
        if not (fast_hz > 0 and slow_hz > 0):
            raise ValueError(f"rates must be positive, not {fast_hz} and {slow_hz} Hz")
        if sources is None:
            sources = device_sources(root, battery=battery, nvml=nvml, clock=clock)
        self._clock = clock
        self._tiers = tuple(
            _Tier(
                1 / rate,
                tuple(name for name in UNITS if (name in FAST_SIGNALS) is fast),
                [_Asked(source) for source in sources if source.fast is fast],
            )
            for fast, rate in ((True, fast_hz), (False, slow_hz))
        )
        self._hold_s = {name: STALE_PERIODS * tier.period_s for tier in self._tiers for name in tier.signals}
        self._smooth: Reading | None = None
        self._sampling = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        # Snapshot and the time up to which all of it is fresh, swapped as one so that readers need no lock.
        self._published = (Snapshot.unknown(), math.inf)

    @property
    def snapshot(self) -> Snapshot:
        """The last values, without waiting; what is older than three periods is unknown ("stale")."""
        snapshot, fresh_until_s = self._published
        now = self._clock()
        return snapshot if now <= fresh_until_s else self._aged(snapshot, now)

    def start(self) -> Sampler:
        """Start sampling in a daemon thread; does nothing when it runs already."""
        if self._thread is None:
            self._stopping = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._stopping,), name="balcony-telemetry", daemon=True
            )
            self._thread.start()
        return self

    def stop(self) -> None:
        """Stop sampling and let the sources go. Waits at most 1 s for a hung sensor; may be called again."""
        thread, self._thread = self._thread, None
        self._stopping.set()
        if thread is not None:
            thread.join(timeout=1.0)  # it lets the sources go itself, whenever its sensor answers
        else:
            self._close()

    def __enter__(self) -> Sampler:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def sample_once(self) -> Snapshot:
        """Ask every source that is due, publish, and return the snapshot. Never raises for a sensor."""
        with self._sampling:
            for tier in self._tiers:
                if tier.due_s <= self._clock():
                    self._sample(tier)
        return self.snapshot

    def _run(self, stopping: threading.Event) -> None:
        try:
            while not stopping.is_set():
                self.sample_once()
                wait_s = min(tier.due_s for tier in self._tiers) - self._clock()
                stopping.wait(max(0.01, wait_s))
        finally:
            self._close()

    def _close(self) -> None:
        for tier in self._tiers:
            for asked in tier.asked:
                asked.source.close()

    def _sample(self, tier: _Tier) -> None:
        now = self._clock()
        tier.due_s = now + tier.period_s
        answers: dict[str, list[Reading]] = {name: [] for name in tier.signals}
        for asked in tier.asked:
            if all(_is_known(answers[name]) for name in asked.source.signals):
                continue  # a better source knows already
            if asked.retry_at_s <= now:
                self._ask(asked, tier.period_s)
            for name, reading in zip(asked.source.signals, asked.last, strict=True):
                if not _is_known(answers[name]):
                    answers[name].append(reading)
        before = self._published[0]
        update = {name: self._choose(tier, name, readings, before) for name, readings in answers.items()}
        after = replace(before, **update)
        fresh = (reading.time_s + self._hold_s[name] for name, reading in after if reading.known)
        self._published = (after, min(fresh, default=math.inf))

    def _ask(self, asked: _Asked, period_s: float) -> None:
        source = asked.source
        try:
            asked.last = tuple(source.read())
            if len(asked.last) != len(source.signals):
                raise ValueError(f"{len(asked.last)} readings for {len(source.signals)} signals")
        except Exception as error:  # one sensor's fault must not end the thread that serves all
            reason = f"{type(error).__name__}: {error}"
            asked.last = tuple(
                Reading.unknown(UNITS[name], source.name, reason, self._clock()) for name in source.signals
            )
        if any(reading.known for reading in asked.last):
            asked.failures, asked.retry_at_s = 0, -math.inf
            return
        asked.failures += 1
        if asked.failures >= FAILURES_BEFORE_BACKOFF:
            doublings = min(asked.failures - FAILURES_BEFORE_BACKOFF + 1, 30)
            asked.retry_at_s = self._clock() + min(period_s * 2**doublings, LONGEST_BACKOFF_S)

    def _choose(self, tier: _Tier, name: str, readings: list[Reading], before: Snapshot) -> Reading:
        """The best source's value, else the one before while fresh, else unknown with all the reasons."""
        if _is_known(readings):
            tier.seen.add(name)
            return self._smoothed(readings[-1]) if name == "gpu_load" else readings[-1]
        held: Reading = getattr(before, name)
        now = self._clock()
        if held.known and now - held.time_s <= self._hold_s[name]:
            return held
        if len(readings) == 1:
            source, reason = readings[0].source, readings[0].reason
        else:
            source = "none"
            reason = "; ".join(f"{reading.source}: {reading.reason}" for reading in readings) or "no source"
        return Reading.unknown(UNITS[name], source, f"stale: {reason}" if name in tier.seen else reason, now)

    def _smoothed(self, reading: Reading) -> Reading:
        last, value = self._smooth, reading.value
        if last is not None and last.value is not None and value is not None:
            elapsed_s = reading.time_s - last.time_s
            # Another source, or one after a pause, says nothing about the mean of this one.
            if last.source == reading.source and 0 <= elapsed_s <= self._hold_s["gpu_load"]:
                share = math.exp(-elapsed_s / GPU_LOAD_SMOOTHING_S)
                reading = replace(reading, value=share * last.value + (1 - share) * value)
        self._smooth = reading
        return reading

    def _aged(self, snapshot: Snapshot, now: float) -> Snapshot:
        old = {
            name: replace(reading, value=None, reason=f"stale: read {now - reading.time_s:.1f} s ago")
            for name, reading in snapshot
            if reading.known and now - reading.time_s > self._hold_s[name]
        }
        return replace(snapshot, **old)


def _is_known(readings: list[Reading]) -> bool:
    return bool(readings) and readings[-1].known
