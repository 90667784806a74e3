"""What a session needs of its sensors, whoever they are."""

from __future__ import annotations

from typing import Protocol

from balcony_edge.telemetry.reading import Snapshot


class Sensors(Protocol):
    """A sampler, a recording that is played, or a test's own: a snapshot at any time, without waiting."""

    @property
    def snapshot(self) -> Snapshot:
        """The last values; the same object until something changes."""

    def start(self) -> object:
        """Begin to keep ``snapshot`` fresh; does nothing when that runs already."""

    def stop(self) -> None:
        """Let the sensors go."""
