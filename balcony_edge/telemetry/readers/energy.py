"""Computes energy (J) for sensors that only tell power (W)."""

from __future__ import annotations

from balcony_edge.telemetry.reading import Reading

LONGEST_GAP_S = 5.0
"""After a longer gap between two readings the counter begins anew, since the power meanwhile is unknown."""


class EnergyMeter:
    """Adds up power over time by the trapezoid rule. Polled at 2 Hz, it is good for means over 5 s and more."""

    def __init__(self) -> None:
        self._last: Reading | None = None
        self._joules = 0.0

    def add(self, power: Reading) -> Reading:
        """Add one reading in W; returns the energy in J since the counter began. Unknown if the reading is."""
        if power.value is None:
            return Reading.unknown("J", power.source, power.reason, power.time_s)
        last, self._last = self._last, power
        if last is not None and last.value is not None:
            elapsed_s = power.time_s - last.time_s
            if last.source == power.source and 0 <= elapsed_s <= LONGEST_GAP_S:
                self._joules += (last.value + power.value) / 2 * elapsed_s
            else:
                self._joules = 0.0
        return Reading(self._joules, "J", power.time_s, f"{power.source}, integrated")
