"""Whether the device holds its clocks down now, and how often it has since boot. Over-current shows nowhere else.

Jetson    cooling_device*/type "*-throttle-alert"; hwmon soctherm_oc: oc1_event_cnt, oc2_…, oc3_… since boot
Pi        hwmon rpi_volt: in0_lcrit_alarm (the supply is too weak)
x86       cpu0/thermal_throttle/package_throttle_count since boot
"""

from __future__ import annotations

from typing import NamedTuple

from balcony_edge.telemetry.readers.sysfs import Number, Sysfs
from balcony_edge.telemetry.reading import Clock, Reading

_COOLING = "sys/class/thermal"
_HWMON = "sys/class/hwmon"
_X86_COUNT = "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
_OC_COUNTERS = 8


class ThrottleReadings(NamedTuple):
    """``active``: 1.0 while clocks are held down, else 0.0. ``events``: how often they were since boot."""

    active: Reading
    events: Reading


class ThrottleReader:
    """Reads both; what a device does not tell is unknown."""

    def __init__(self, sysfs: Sysfs, clock: Clock) -> None:
        self._sysfs = sysfs
        self._clock = clock

    def read(self) -> ThrottleReadings:
        """The state now, and the count of events."""
        return ThrottleReadings(self._active(), self._events())

    def _active(self) -> Reading:
        alerts, reason = self._alerts()
        raised = [name for name, number in alerts if number.value]
        if raised:
            return Reading(1.0, "bool", self._clock(), "sysfs", text=" ".join(raised))
        if any(number.value == 0 for _, number in alerts):
            return Reading(0.0, "bool", self._clock(), "sysfs")
        return self._unknown("bool", reason)

    def _alerts(self) -> tuple[list[tuple[str, Number]], str]:
        found: list[tuple[str, Number]] = []
        for entry in self._sysfs.entries(_COOLING):
            if not entry.startswith("cooling_device"):
                continue
            kind = self._sysfs.text(f"{_COOLING}/{entry}/type").value or ""
            if "throttle-alert" in kind:
                number = self._sysfs.number(f"{_COOLING}/{entry}/cur_state")
                found.append((kind.removesuffix("-throttle-alert"), number))
        for base, name in self._chips():
            if name == "rpi_volt":
                found.append(("undervoltage", self._sysfs.number(f"{base}/in0_lcrit_alarm")))
        unread = next((number.reason for _, number in found if number.reason), "")
        return found, unread or "this device tells no throttle state"

    def _events(self) -> Reading:
        counts: dict[str, int] = {}
        reason = "this device counts no throttle events"
        for base, name in self._chips():
            if name != "soctherm_oc":
                continue
            for counter in range(1, _OC_COUNTERS + 1):
                number = self._sysfs.number(f"{base}/oc{counter}_event_cnt")
                if number.value is not None and number.value >= 0:
                    counts[f"oc{counter}"] = number.value
                elif number.reason and "ENOENT" not in number.reason:
                    return self._unknown("count", number.reason)
        if counts:
            text = " ".join(f"{name} {count}" for name, count in counts.items())
            return Reading(float(sum(counts.values())), "count", self._clock(), "soctherm_oc", text=text)
        number = self._sysfs.number(_X86_COUNT)
        if number.value is not None and number.value >= 0:
            return Reading(float(number.value), "count", self._clock(), "thermal_throttle", text="package")
        return self._unknown("count", reason)

    def _chips(self) -> list[tuple[str, str]]:
        bases = [f"{_HWMON}/{entry}" for entry in self._sysfs.entries(_HWMON)]
        return [(base, self._sysfs.text(f"{base}/name").value or "") for base in bases]

    def _unknown(self, unit: str, reason: str) -> Reading:
        return Reading.unknown(unit, "sysfs", reason, self._clock())
