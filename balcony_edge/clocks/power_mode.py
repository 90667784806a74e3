"""A Jetson's power modes (nvpmodel) as a knob."""

from __future__ import annotations

import time
from collections.abc import Sequence

from balcony_edge.clocks.change import Change, ModeChange
from balcony_edge.clocks.knob import no_clock
from balcony_edge.errors import ClockError
from balcony_edge.telemetry.readers.power_mode import PowerModeReader, mode_names
from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_profiles import ClockKind


class PowerModes:
    """The modes that ``names`` lists, fastest first. Those that the board's configuration lacks are left out.

    A mode sets all clocks. It survives a reboot, and it undoes caps of single clocks that were set by hand.
    """

    kind: ClockKind = "power mode"

    def __init__(self, sysfs: Sysfs, names: Sequence[str]) -> None:
        self._reader = PowerModeReader(sysfs, time.monotonic)
        numbers = {name: number for number, name in mode_names(sysfs).items()}
        self._numbers = {name: numbers[name] for name in names if name in numbers}
        self.clocks = tuple(self._numbers)

    def present(self) -> str | None:
        """The mode in force; None if it is none of the clocks, or this device does not tell it."""
        mode = self._reader.read().value
        return next((name for name, number in self._numbers.items() if number == mode), None)

    def to(self, clock: str) -> list[Change]:
        """One change of the mode. Raises ValueError if there is no such clock."""
        if clock not in self._numbers:
            raise no_clock(self.kind, clock, self.clocks)
        return [ModeChange(self._numbers[clock])]

    def undo(self) -> list[Change]:
        """The change to the mode in force, whether or not it is a clock. Raises ClockError if it is unknown."""
        reading = self._reader.read()
        if reading.value is None:
            raise ClockError(f"the power mode is unknown: {reading.reason}", "see what `sudo nvpmodel -q` says")
        return [ModeChange(int(reading.value))]
