"""Polls the sensors in one daemon thread; everybody else looks at the last snapshot, without waiting.

fast tier, 5 Hz    load and clock of the GPU, load of the processor
slow tier, 2 Hz    everything else

A slow sensor is polled less often, and one that fails less and less often. If a sensor hangs, its thread is left alone
with it, and another thread goes on with the others.
"""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

from balcony_edge.telemetry.injected import BatterySource
from balcony_edge.telemetry.reading import UNITS, Clock, Reading, Snapshot
from balcony_edge.telemetry.schedule import HUNG_S, PolledSource, Tier
from balcony_edge.telemetry.sources import FAST_SIGNALS, Source, device_sources

GPU_LOAD_SMOOTHING_S = 0.75
"""Time constant of the mean over the GPU's load, which swings between 40 and 99 % within one token's work."""

# A snapshot, until when each of its values is valid, and the time at which the snapshot must be checked again.
_Published = tuple[Snapshot, dict[str, float], float]


class Poller:
    """Keeps ``snapshot`` up to date while it runs: ``with Poller() as sensors: ... sensors.snapshot``.

    ``start`` only starts a thread, and all sensors are read there.

    Args:
        sources: what to poll; this machine's sensors by default. Of several sources for one signal, the first that
            knows a value is used.
        root, battery, nvml: for the default sources, see ``device_sources``.
        fast_hz, slow_hz: how often the tiers are polled.
        clock: seconds; a test gives its own.

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
        slow_hz: float = 2.0,
        clock: Clock = time.monotonic,
    ) -> None:
        if not (fast_hz > 0 and slow_hz > 0):
            raise ValueError(f"rates must be positive, not {fast_hz} and {slow_hz} Hz")
        if sources is None:
            sources = device_sources(root, battery=battery, nvml=nvml, clock=clock)
        self._clock = clock
        self._tiers = tuple(
            Tier(
                1 / rate,
                tuple(name for name in UNITS if (name in FAST_SIGNALS) is fast),
                [PolledSource(source, 1 / rate) for source in sources if source.fast is fast],
            )
            for fast, rate in ((True, fast_hz), (False, slow_hz))
        )
        self._last_gpu_load: Reading | None = None
        # Each thread has a lock and an event of its own; the event is set when that thread must end.
        self._polling = threading.Lock()
        self._ended = threading.Event()
        self._replacing = threading.Lock()
        self._thread: threading.Thread | None = None
        # The source that is being read, and since when.
        self._in_progress: tuple[PolledSource, float] | None = None
        self._restart_after_fork = False
        # Replaced as a whole, so that readers need no lock.
        self._published: _Published = (Snapshot.unknown(), {}, math.inf)
        _pollers.add(self)

    @property
    def snapshot(self) -> Snapshot:
        """The last values, without waiting. A value older than three periods of its source is unknown ("stale")."""
        snapshot, _, check_s = self._published
        now = self._clock()
        return snapshot if now <= check_s else self._checked_snapshot(now)

    def start(self) -> Poller:
        """Start polling in a daemon thread; does nothing if it runs already."""
        if self._thread is None:
            self._mark_hung()
            self._start_thread()
        return self

    def stop(self) -> None:
        """Stop polling and close the sources. Waits at most 1 s for a sensor that hangs; can be called again."""
        thread, self._thread = self._thread, None
        self._restart_after_fork = False
        self._ended.set()
        if thread is not None:
            thread.join(timeout=1.0)  # the thread closes the sources, even if its sensor answers later
        else:
            self._close()

    def __enter__(self) -> Poller:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def poll_once(self) -> Snapshot:
        """Poll every source that is due, in the caller's thread; returns the snapshot. A sensor's error is no error."""
        self._poll_due(self._ended, self._polling)
        return self.snapshot

    # --- the thread -----------------------------------------------------------------------------------------------

    def _start_thread(self) -> None:
        """Start a thread with a lock of its own: a thread with a sensor that hangs may hold the old lock for ever."""
        self._ended.set()
        self._ended, self._polling = threading.Event(), threading.Lock()
        snapshot, until, _ = self._published
        self._published = snapshot, until, self._clock() + HUNG_S
        self._thread = threading.Thread(
            target=self._serve, args=(self._ended, self._polling), name="balcony-telemetry", daemon=True
        )
        self._thread.start()

    def _serve(self, ended: threading.Event, polling: threading.Lock) -> None:
        """The thread's function: polls until ``ended`` is set."""
        try:
            while not ended.is_set():
                self._poll_due(ended, polling)
                now = self._clock()
                wait_s = min(tier.wait_s(now) for tier in self._tiers)
                ended.wait(max(0.01, wait_s))
        finally:
            if ended is self._ended:
                self._close()

    def _close(self) -> None:
        for tier in self._tiers:
            for polled in tier.sources:
                polled.source.close()

    def _poll_due(self, ended: threading.Event, polling: threading.Lock) -> None:
        with polling:
            for tier in self._tiers:
                if ended is self._ended and tier.wait_s(self._clock()) <= 0:
                    self._poll_tier(tier, ended)

    def _poll_tier(self, tier: Tier, ended: threading.Event) -> None:
        """Poll the sources of a tier, as far as no better source knows their signals, and publish what they say."""
        now = self._clock()
        tier.due_s = now + tier.period_s
        found: dict[str, list[tuple[Reading, float]]] = {name: [] for name in tier.signals}
        complete: set[str] = set()
        for polled in tier.sources:
            source = polled.source
            if source.signals[0] in complete if source.together else complete.issuperset(source.signals):
                continue  # a better source knows already
            if polled.due(now):
                self._in_progress = polled, now
                polled.poll(self._clock)
                if ended is not self._ended:
                    return  # it hung so long that another thread has replaced this one
                self._in_progress = None
            readings = polled.readings(self._clock())
            whole = source.together and readings[0].known
            for name, reading in zip(source.signals, readings, strict=True):
                if name not in complete:
                    found[name].append((reading, polled.hold_s))
                    if reading.known or whole:
                        complete.add(name)
        self._publish(tier, found)

    def _publish(self, tier: Tier, found: dict[str, list[tuple[Reading, float]]]) -> None:
        """Put a tier's readings, each with the seconds for which it is valid, into a new snapshot."""
        before, until, _ = self._published
        update, until = {}, dict(until)
        for name, readings in found.items():
            update[name], until[name] = self._choose(tier, name, readings, getattr(before, name), until.get(name, 0.0))
        # Checked again after HUNG_S at the latest, to notice a thread that hangs.
        check_s = min([*until.values(), self._clock() + HUNG_S])
        self._published = replace(before, **update), until, check_s

    def _choose(
        self, tier: Tier, name: str, readings: list[tuple[Reading, float]], held: Reading, held_until_s: float
    ) -> tuple[Reading, float]:
        """The reading to publish for a signal, and until when it is valid.

        That is the best source's value; else the one before (``held``) while that is valid; else unknown, with the
        reasons of all sources. ``readings``: the sources' readings up to the first known one.
        """
        now = self._clock()
        if readings and readings[-1][0].known:
            reading, hold_s = readings[-1]
            # A source may return an old reading again; it does not become newer by that.
            if 0 <= now - reading.time_s <= hold_s:
                tier.seen.add(name)
                return (self._smoothed(reading) if name == "gpu_load" else reading), reading.time_s + hold_s
            reason = f"read {now - reading.time_s:.1f} s ago"
            return Reading.unknown(UNITS[name], reading.source, f"stale: {reason}", now), math.inf
        if held.known and held.time_s <= now <= held_until_s:
            return held, held_until_s
        if len(readings) == 1:
            source, reason = readings[0][0].source, readings[0][0].reason
        else:
            source = "none"
            reason = "; ".join(f"{reading.source}: {reading.reason}" for reading, _ in readings) or "no source"
        stale = f"stale: {reason}" if name in tier.seen else reason
        return Reading.unknown(UNITS[name], source, stale, now), math.inf

    def _smoothed(self, reading: Reading) -> Reading:
        """The reading with its exponential mean over GPU_LOAD_SMOOTHING_S as the value."""
        last, value = self._last_gpu_load, reading.value
        if last is not None and last.value is not None and value is not None:
            elapsed_s = reading.time_s - last.time_s
            # After a pause, or with another source, the mean begins anew.
            if last.source == reading.source and 0 <= elapsed_s <= self._tiers[0].hold_s:
                share = math.exp(-elapsed_s / GPU_LOAD_SMOOTHING_S)
                reading = replace(reading, value=share * last.value + (1 - share) * value)
        self._last_gpu_load = reading
        return reading

    # --- when the thread is silent --------------------------------------------------------------------------------

    def _checked_snapshot(self, now: float) -> Snapshot:
        """The snapshot without values that are too old. Starts a new thread if the old one cannot go on."""
        if self._restart_after_fork:
            self._restart_after_fork = False
            self.start()
        elif self._thread is not None:
            self._replace_hung_thread(now)
        published = self._published
        snapshot, until, _ = published
        reading_now = self._in_progress
        waiting = (
            f" ({reading_now[0].source.name} has not answered for {now - reading_now[1]:.1f} s)" if reading_now else ""
        )
        old = {
            name: replace(reading, value=None, text="", reason=f"stale: read {now - reading.time_s:.1f} s ago{waiting}")
            for name, reading in snapshot
            if reading.known and now > until.get(name, math.inf)
        }
        if not old:
            return snapshot
        aged = replace(snapshot, **old)
        fresh = {name: limit for name, limit in until.items() if name not in old}
        if self._published is published:  # unless the thread has published a newer one meanwhile
            self._published = aged, fresh, min([*fresh.values(), now + HUNG_S])
        return aged

    def _replace_hung_thread(self, now: float) -> None:
        """If a sensor hangs, leave its thread alone with it and go on with the others in a new thread."""
        hung = self._in_progress
        if hung is None or now - hung[1] <= HUNG_S or not self._replacing.acquire(blocking=False):
            return
        try:
            if self._in_progress is hung and self._thread is not None:
                self._mark_hung()
                self._start_thread()
        finally:
            self._replacing.release()

    def _mark_hung(self) -> None:
        hung, self._in_progress = self._in_progress, None
        if hung is not None:
            hung[0].mark_hung(hung[1])

    def _after_fork(self) -> None:
        """Begin anew in a child process: it has no thread, and a lock may be held by a thread that is not there."""
        running, self._thread = self._thread is not None, None
        self._ended, self._polling, self._replacing = threading.Event(), threading.Lock(), threading.Lock()
        self._in_progress = None
        for tier in self._tiers:
            tier.due_s = -math.inf
            for polled in tier.sources:
                polled.hung_since_s = None
        self._last_gpu_load = None
        self._published = (Snapshot.unknown("not read yet since the fork"), {}, -math.inf if running else math.inf)
        # A thread cannot be started safely during fork(): the first use of ``snapshot`` does it.
        self._restart_after_fork = running


_pollers: weakref.WeakSet[Poller] = weakref.WeakSet()


def _restart_all() -> None:
    for poller in list(_pollers):
        poller._after_fork()


os.register_at_fork(after_in_child=_restart_all)
