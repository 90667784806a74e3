"""Power and energy of an x86 processor, from its own counter (RAPL). Most kernels let only root read it."""

from __future__ import annotations

import re
from typing import NamedTuple

from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_edge.telemetry.reading import Clock, Reading

_BASE = "sys/class/powercap"
_PACKAGE = re.compile(r"(intel|amd)-rapl:[0-9]+")
_LARGEST_W = 2000.0
_SHORTEST_S = 0.05


class RaplReadings(NamedTuple):
    """Power since the reading before (W), and energy since the first one (J)."""

    power: Reading
    energy: Reading


class RaplReader:
    """Reads all processor packages. Their counters wrap around after minutes to hours, which is corrected."""

    def __init__(self, sysfs: Sysfs, clock: Clock) -> None:
        self._sysfs = sysfs
        self._clock = clock
        self._last: dict[str, int] = {}
        self._last_s = 0.0
        self._joules = 0.0

    def read(self) -> RaplReadings:
        """Power and energy. The first call only begins the interval, and both are unknown."""
        counters, reason = self._counters()
        now = self._clock()
        if reason:
            self._last = {}
            return self._unknown(reason)
        if set(counters) != set(self._last) or not now > self._last_s:
            self._last, self._last_s, self._joules = counters, now, 0.0
            return self._unknown("the first interval is not over")
        elapsed_s = now - self._last_s
        if elapsed_s < _SHORTEST_S:
            return self._unknown("read twice within the counter's own period")
        joules = 0.0
        for package, count in counters.items():
            moved = count - self._last[package]
            if moved < 0:
                span = self._sysfs.number(f"{_BASE}/{package}/max_energy_range_uj").value
                if span is None:
                    self._last = {}
                    return self._unknown("the counter wrapped around at an unknown value")
                moved += span
            joules += moved / 1e6
        self._last, self._last_s = counters, now
        watts = joules / elapsed_s
        if not 0 < watts <= _LARGEST_W:
            return self._unknown(f"a mean of {watts:.1f} W is implausible")
        self._joules += joules
        source = f"rapl:{'+'.join(sorted(counters))}"
        return RaplReadings(Reading(watts, "W", now, source), Reading(self._joules, "J", now, source))

    def _counters(self) -> tuple[dict[str, int], str]:
        """The counter of every package in µJ, and why there are none (empty if there are)."""
        counters = {}
        for entry in self._sysfs.entries(_BASE):
            if not _PACKAGE.fullmatch(entry):
                continue
            # There may also be a domain for the whole platform, which includes the packages.
            if not (self._sysfs.text(f"{_BASE}/{entry}/name").value or "").startswith("package"):
                continue
            number = self._sysfs.number(f"{_BASE}/{entry}/energy_uj")
            if number.value is None or number.value < 0:
                return {}, number.reason or f"{entry}: {number.value} µJ is implausible"
            counters[entry] = number.value
        return counters, "" if counters else f"no processor counter under /{_BASE}"

    def _unknown(self, reason: str) -> RaplReadings:
        now = self._clock()
        return RaplReadings(
            Reading.unknown("W", "rapl", reason, now),
            Reading.unknown("J", "rapl", reason, now),
        )
