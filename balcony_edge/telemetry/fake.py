"""Sensors that say what they are told: for tests, demonstrations and replays."""

from __future__ import annotations

import time
from dataclasses import replace
from types import TracebackType

from balcony_edge.telemetry.reading import UNITS, Clock, Reading, Snapshot


class FakeSensors:
    """A :class:`~balcony_edge.telemetry.poller.Poller` without sensors and without a thread.

        sensors = FakeSensors()
        sensors.set(gpu_load=0.7, battery_level=None)
        sensors.snapshot.gpu_load.value    # 0.7

    ``snapshot`` is a plain attribute and may also be assigned as a whole.
    """

    def __init__(self, snapshot: Snapshot | None = None, *, clock: Clock = time.monotonic) -> None:
        self.snapshot = Snapshot.unknown("nothing set") if snapshot is None else snapshot
        self.running = False
        self._clock = clock

    def set(self, **values: float | None) -> Snapshot:
        """Give signals a value in the snapshot's unit, or ``None`` for unknown; the others stay as they are.

        Raises:
            ValueError: if a name is not a signal, or a value is not finite.
        """
        strangers = [name for name in values if name not in UNITS]
        if strangers:
            raise ValueError(f"no signal is called {', '.join(strangers)}; there are {', '.join(UNITS)}")
        now = self._clock()
        readings = {
            name: Reading(value, UNITS[name], now, "fake", "set to unknown" if value is None else "")
            for name, value in values.items()
        }
        self.snapshot = replace(self.snapshot, **readings)
        return self.snapshot

    def sample_once(self) -> Snapshot:
        """The snapshot as it is."""
        return self.snapshot

    def start(self) -> FakeSensors:
        """Note that sampling was asked for."""
        self.running = True
        return self

    def stop(self) -> None:
        """Note that sampling was ended."""
        self.running = False

    def __enter__(self) -> FakeSensors:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
