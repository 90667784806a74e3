"""Joules where a sensor only tells watts."""

from __future__ import annotations

from balcony_edge.telemetry.reading import Reading

LONGEST_GAP_S = 5.0
"""Nobody knows what was drawn in a longer gap, so the counter begins anew after one."""


class EnergyMeter:
    """Adds up power readings by the trapezoid rule. At 2 Hz it is good for means over 5 s and more."""

    def __init__(self) -> None:
        self._last: Reading | None = None
        self._joules = 0.0

    def add(self, power: Reading) -> Reading:
        """J since the counter began, from one more reading in W; unknown when that is unknown."""
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
