"""Sensors whose values the program sets itself: for tests and demonstrations."""

from __future__ import annotations

import time
from dataclasses import replace
from types import TracebackType

from balcony_edge.telemetry.reading import UNITS, Clock, Reading, Snapshot


class FakeSensors:
    """Takes the place of a Poller: the program sets the values, and there is no thread.

        sensors = FakeSensors()
        sensors.set(gpu_load=0.7, battery_level=None)
        sensors.snapshot.gpu_load.value    # 0.7

    ``snapshot`` is a plain attribute; it can also be assigned as a whole.
    """

    def __init__(self, snapshot: Snapshot | None = None, *, clock: Clock = time.monotonic) -> None:
        self.snapshot = Snapshot.unknown("nothing set") if snapshot is None else snapshot
        self.running = False
        self._clock = clock

    def set(self, **values: float | None) -> Snapshot:
        """Set signals, in the units of Snapshot or to ``None`` for unknown. The others stay; returns the new snapshot.

        Raises:
            ValueError: if a name is not a signal, or a value is not finite.
        """
        misnamed = [name for name in values if name not in UNITS]
        if misnamed:
            raise ValueError(f"no signal is called {', '.join(misnamed)}; there are {', '.join(UNITS)}")
        now = self._clock()
        readings = {
            name: Reading(value, UNITS[name], now, "fake", "set to unknown" if value is None else "")
            for name, value in values.items()
        }
        self.snapshot = replace(self.snapshot, **readings)
        return self.snapshot

    def start(self) -> FakeSensors:
        """Set ``running``; nothing else happens."""
        self.running = True
        return self

    def stop(self) -> None:
        """Clear ``running``."""
        self.running = False

    def __enter__(self) -> FakeSensors:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
