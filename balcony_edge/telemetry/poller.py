"""One daemon thread asks the sensors; everybody else looks at the last snapshot.

fast tier, 5 Hz    load and clock of the GPU, load of the processor
slow tier, 2 Hz    everything else

A sensor that takes long is asked less often, one that fails is asked less and less often, and one that hangs is left
to its thread while another thread goes on with the others.
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

from balcony_edge.telemetry.asked import HUNG_S, Asked, Tier
from balcony_edge.telemetry.injected import BatterySource
from balcony_edge.telemetry.reading import UNITS, Clock, Reading, Snapshot
from balcony_edge.telemetry.sources import FAST_SIGNALS, Source, device_sources

GPU_LOAD_SMOOTHING_S = 0.75
"""Time constant for the GPU's load, which swings between 40 and 99 % within one token's work."""

# What is published: a snapshot, until when each of its values holds, and when somebody should look again.
_Published = tuple[Snapshot, dict[str, float], float]


class Poller:
    """Keeps ``snapshot`` fresh while it runs: ``with Poller() as sensors: ... sensors.snapshot``.

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
                [Asked(source, 1 / rate) for source in sources if source.fast is fast],
            )
            for fast, rate in ((True, fast_hz), (False, slow_hz))
        )
        self._smooth: Reading | None = None
        self._sampling = threading.Lock()
        self._relieving = threading.Lock()
        self._thread: threading.Thread | None = None
        self._run = threading.Event()  # set when the run that it stands for is over
        self._asking: tuple[Asked, float] | None = None
        self._revive = False
        # Swapped as one, so that readers need no lock.
        self._published: _Published = (Snapshot.unknown(), {}, math.inf)
        _samplers.add(self)

    @property
    def snapshot(self) -> Snapshot:
        """The last values, without waiting; what is older than three periods is unknown ("stale")."""
        snapshot, _, look_again_s = self._published
        now = self._clock()
        return snapshot if now <= look_again_s else self._look(now)

    def start(self) -> Poller:
        """Start sampling in a daemon thread; does nothing when it runs already."""
        if self._thread is None:
            self._leave_hung()
            self._start_thread()
        return self

    def stop(self) -> None:
        """Stop sampling and let the sources go. Waits at most 1 s for a hung sensor; may be called again."""
        thread, self._thread = self._thread, None
        self._revive = False
        self._run.set()
        if thread is not None:
            thread.join(timeout=1.0)  # it lets the sources go itself, whenever its sensor answers
        else:
            self._close()

    def __enter__(self) -> Poller:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def sample_once(self) -> Snapshot:
        """Ask every source that is due, publish, and return the snapshot. Never raises for a sensor."""
        self._sample_due(self._run, self._sampling)
        return self.snapshot

    # --- the thread -----------------------------------------------------------------------------------------------

    def _start_thread(self) -> None:
        """A new run with a lock of its own: an earlier one may be held for ever by a sensor that hangs."""
        self._run.set()
        self._run, self._sampling = threading.Event(), threading.Lock()
        snapshot, until, _ = self._published
        self._published = snapshot, until, self._clock() + HUNG_S
        self._thread = threading.Thread(
            target=self._serve, args=(self._run, self._sampling), name="balcony-telemetry", daemon=True
        )
        self._thread.start()

    def _serve(self, run: threading.Event, sampling: threading.Lock) -> None:
        try:
            while not run.is_set():
                self._sample_due(run, sampling)
                now = self._clock()
                wait_s = min(tier.wait_s(now) for tier in self._tiers)
                run.wait(max(0.01, wait_s))
        finally:
            if run is self._run:
                self._close()

    def _close(self) -> None:
        for tier in self._tiers:
            for asked in tier.asked:
                asked.source.close()

    def _sample_due(self, run: threading.Event, sampling: threading.Lock) -> None:
        with sampling:
            for tier in self._tiers:
                if run is self._run and tier.wait_s(self._clock()) <= 0:
                    self._sample(tier, run)

    def _sample(self, tier: Tier, run: threading.Event) -> None:
        now = self._clock()
        tier.due_s = now + tier.period_s
        answers: dict[str, list[tuple[Reading, float]]] = {name: [] for name in tier.signals}
        settled: set[str] = set()
        for asked in tier.asked:
            source = asked.source
            if source.signals[0] in settled if source.together else settled.issuperset(source.signals):
                continue  # a better source knows already
            if asked.due(now):
                self._asking = asked, now
                asked.ask(self._clock)
                if run is not self._run:
                    return  # it hung so long that another thread has taken over
                self._asking = None
            readings = asked.answer(self._clock())
            whole = source.together and readings[0].known
            for name, reading in zip(source.signals, readings, strict=True):
                if name not in settled:
                    answers[name].append((reading, asked.hold_s))
                    if reading.known or whole:
                        settled.add(name)
        self._publish(tier, answers)

    def _publish(self, tier: Tier, answers: dict[str, list[tuple[Reading, float]]]) -> None:
        before, until, _ = self._published
        update, until = {}, dict(until)
        for name, readings in answers.items():
            update[name], until[name] = self._choose(tier, name, readings, getattr(before, name), until.get(name, 0.0))
        # Silence of the thread must be noticed too.
        look_again_s = min([*until.values(), self._clock() + HUNG_S])
        self._published = replace(before, **update), until, look_again_s

    def _choose(
        self, tier: Tier, name: str, readings: list[tuple[Reading, float]], held: Reading, held_until_s: float
    ) -> tuple[Reading, float]:
        """The best source's value, else the one before while fresh, else unknown with all the reasons; and how long."""
        now = self._clock()
        if readings and readings[-1][0].known:
            reading, hold_s = readings[-1]
            # A source may not pass off an old reading as new.
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
        last, value = self._smooth, reading.value
        if last is not None and last.value is not None and value is not None:
            elapsed_s = reading.time_s - last.time_s
            # Another source, or one after a pause, says nothing about the mean of this one.
            if last.source == reading.source and 0 <= elapsed_s <= self._tiers[0].hold_s:
                share = math.exp(-elapsed_s / GPU_LOAD_SMOOTHING_S)
                reading = replace(reading, value=share * last.value + (1 - share) * value)
        self._smooth = reading
        return reading

    # --- when the thread is silent --------------------------------------------------------------------------------

    def _look(self, now: float) -> Snapshot:
        """The snapshot without what is too old by now; and a new thread where the old one cannot go on."""
        if self._revive:
            self._revive = False
            self.start()
        elif self._thread is not None:
            self._relieve(now)
        published = self._published
        snapshot, until, _ = published
        asking = self._asking
        waiting = f" ({asking[0].source.name} has not answered for {now - asking[1]:.1f} s)" if asking else ""
        old = {
            name: replace(reading, value=None, text="", reason=f"stale: read {now - reading.time_s:.1f} s ago{waiting}")
            for name, reading in snapshot
            if reading.known and now > until.get(name, math.inf)
        }
        if not old:
            return snapshot
        aged = replace(snapshot, **old)
        fresh = {name: limit for name, limit in until.items() if name not in old}
        if self._published is published:  # kept, so that the next look costs nothing; a newer sample wins
            self._published = aged, fresh, min([*fresh.values(), now + HUNG_S])
        return aged

    def _relieve(self, now: float) -> None:
        """Where a sensor hangs, leave it to its thread and go on with the others in a new one."""
        asking = self._asking
        if asking is None or now - asking[1] <= HUNG_S or not self._relieving.acquire(blocking=False):
            return
        try:
            if self._asking is asking and self._thread is not None:
                self._leave_hung()
                self._start_thread()
        finally:
            self._relieving.release()

    def _leave_hung(self) -> None:
        asking, self._asking = self._asking, None
        if asking is not None:
            asking[0].leave(asking[1])

    def _after_fork(self) -> None:
        """In a child there is no thread, and locks may be held by nobody."""
        running, self._thread = self._thread is not None, None
        self._run, self._sampling, self._relieving = threading.Event(), threading.Lock(), threading.Lock()
        self._asking = None
        for tier in self._tiers:
            tier.due_s = -math.inf
            for asked in tier.asked:
                asked.hung_since_s = None
        self._smooth = None
        self._published = (Snapshot.unknown("not sampled yet since the fork"), {}, -math.inf if running else math.inf)
        # A thread cannot be started safely inside of fork(): the first look does it.
        self._revive = running


_samplers: weakref.WeakSet[Poller] = weakref.WeakSet()


def _revive_all() -> None:
    for sampler in list(_samplers):
        sampler._after_fork()


os.register_at_fork(after_in_child=_revive_all)
