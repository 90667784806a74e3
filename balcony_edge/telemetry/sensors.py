"""What a session needs of its sensors."""

from __future__ import annotations

from typing import Protocol

from balcony_edge.telemetry.reading import Snapshot


class Sensors(Protocol):
    """Gives a snapshot at any time, without waiting: a Poller, a Player, FakeSensors, or a program's own."""

    @property
    def snapshot(self) -> Snapshot:
        """The last values; the same object until something changes."""

    def start(self) -> object:
        """Begin to keep ``snapshot`` up to date; does nothing if that runs already."""

    def stop(self) -> None:
        """Stop, and close the sensors."""
