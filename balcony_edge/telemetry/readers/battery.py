"""Batteries and mains power, from /sys/class/power_supply.

Drivers differ in signs, in units and in which files exist, and any file can fail at any time. So there are several ways
to get each quantity; whether a battery is charging comes from ``status`` and never from a sign; and a signal that
cannot be read does not affect the others.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import NamedTuple

from balcony_edge.telemetry.readers.battery_slope import Slope
from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_edge.telemetry.reading import Clock, Reading

_BASE = "sys/class/power_supply"
_SOURCE = "power_supply"
_LARGEST_W = 10_000.0
_FULLEST = 1.1  # a new gauge may read a little above full; more than that is an error


class BatteryReadings(NamedTuple):
    """The battery signals of a Snapshot, read together."""

    level: Reading
    power: Reading
    mains: Reading
    energy: Reading


@dataclass(frozen=True, slots=True)
class _Charge:
    """One battery's level (0 to 1), and its energy when full in Wh, None if unknown."""

    level: float
    full_wh: float | None

    @property
    def left_wh(self) -> float | None:
        return None if self.full_wh is None else self.level * self.full_wh


class BatteryReader:
    """Reads all batteries of the system as if they were one. Batteries of peripherals do not count."""

    def __init__(
        self, root: str | os.PathLike[str] = "/", *, sysfs: Sysfs | None = None, clock: Clock = time.monotonic
    ) -> None:
        self._sysfs = sysfs or Sysfs(root)
        self._clock = clock
        self._slopes: dict[str, Slope] = {}

    def read(self) -> BatteryReadings:
        """Level (0 to 1), power (W, positive while discharging), mains power (1.0 or 0.0) and energy left (Wh)."""
        batteries, feeds = self._supplies()
        mains = self._mains(batteries, feeds)
        charges = {battery: self._charge(battery) for battery in batteries}
        return BatteryReadings(self._level(charges), self._power(charges, mains), mains, self._energy(charges))

    def system_power(self) -> Reading:
        """Power of the whole device, W. It is the battery's power while nothing else feeds the device, else unknown."""
        readings = self.read()
        if not readings.power.known:
            return readings.power
        if readings.mains.value != 0:
            return self._unknown("W", readings.mains.reason or "on mains a battery's power is not the device's")
        if not (readings.power.value or 0) > 0:
            return self._unknown("W", "the battery gives no power")
        return replace(readings.power, source=f"{_SOURCE}, whole device")

    def _supplies(self) -> tuple[list[str], list[str]]:
        batteries, feeds = [], []
        for name in self._sysfs.entries(_BASE):
            supply = f"{_BASE}/{name}"
            kind = self._sysfs.text(f"{supply}/type").value or ""
            if self._sysfs.text(f"{supply}/scope").value == "Device":
                continue  # a mouse or a headset
            if kind in ("Battery", "UPS"):
                if self._sysfs.number(f"{supply}/present").value != 0:
                    batteries.append(supply)
            elif kind == "Mains" or kind.startswith("USB"):
                feeds.append(supply)
        return batteries, feeds

    def _level(self, charges: dict[str, _Charge | None]) -> Reading:
        if not charges:
            return self._unknown("ratio", "no battery")
        known: list[_Charge] = []
        for battery, charge in charges.items():
            if charge is None:
                return self._unknown("ratio", f"/{battery} gives no level")
            known.append(charge)
        if len(known) == 1:
            return self._known(known[0].level, "ratio")
        sizes = [charge.full_wh for charge in known if charge.full_wh is not None]
        if len(sizes) < len(known):
            return self._unknown("ratio", "several batteries, and not all tell their size")
        left = sum(charge.level * size for charge, size in zip(known, sizes, strict=True))
        return self._known(left / sum(sizes), "ratio")

    def _energy(self, charges: dict[str, _Charge | None]) -> Reading:
        if not charges:
            return self._unknown("Wh", "no battery")
        total = 0.0
        for battery, charge in charges.items():
            left = None if charge is None else charge.left_wh
            if left is None:
                return self._unknown("Wh", f"/{battery} tells no size in Wh")
            total += left
        return self._known(total, "Wh")

    def _charge(self, battery: str) -> _Charge | None:
        energy, energy_full = self._positive(battery, "energy_now"), self._full(battery, "energy")
        full_wh = energy_full / 1e6 if energy_full else None
        if energy is not None and energy_full and energy / energy_full <= _FULLEST:
            return _Charge(min(1.0, energy / energy_full), full_wh)
        charge, charge_full = self._positive(battery, "charge_now"), self._full(battery, "charge")
        voltage = self._positive(battery, "voltage_min_design") or self._positive(battery, "voltage_now")
        if full_wh is None and charge_full and voltage:
            full_wh = charge_full * voltage / 1e12  # µAh · µV
        if charge is not None and charge_full and charge / charge_full <= _FULLEST:
            return _Charge(min(1.0, charge / charge_full), full_wh)
        percent = self._positive(battery, "capacity")
        return _Charge(percent / 100, full_wh) if percent is not None and percent <= 100 else None

    def _full(self, battery: str, quantity: str) -> int | None:
        full = self._positive(battery, f"{quantity}_full")
        return full or self._positive(battery, f"{quantity}_full_design")

    def _power(self, charges: dict[str, _Charge | None], mains: Reading) -> Reading:
        if not charges:
            return self._unknown("W", "no battery")
        total = 0.0
        for battery, charge in charges.items():
            watts = self._magnitude(battery)
            if watts is None:
                slope = self._slope(battery, charge)
                if slope is None:
                    return self._unknown("W", f"/{battery} gives neither power nor current and voltage")
                total += slope
                continue
            status = self._sysfs.text(f"{battery}/status").value or "unreadable"
            if status == "Discharging" and watts == 0:
                return self._unknown("W", f"/{battery} claims to discharge at 0 W")
            if status == "Discharging" or (status != "Charging" and mains.value == 0):
                total += watts
            elif status == "Charging":
                total -= watts
            elif watts:
                return self._unknown("W", f"/{battery}: status {status}, so {watts:.1f} W have no direction")
        return self._known(total, "W")

    def _magnitude(self, battery: str) -> float | None:
        power = self._sysfs.number(f"{battery}/power_now").value
        if power is not None and abs(power) / 1e6 <= _LARGEST_W:
            return abs(power) / 1e6
        current = self._sysfs.number(f"{battery}/current_now").value
        voltage = self._positive(battery, "voltage_now")
        if current is None or not voltage:
            return None
        watts = abs(current) * voltage / 1e12
        return watts if watts <= _LARGEST_W else None

    def _slope(self, battery: str, charge: _Charge | None) -> float | None:
        """Power in W from how fast the energy left changes. It is slow, so it is used last."""
        slope = self._slopes.setdefault(battery, Slope())
        return None if charge is None or charge.left_wh is None else slope.add(self._clock(), charge.left_wh)

    def _mains(self, batteries: list[str], feeds: list[str]) -> Reading:
        online = [self._sysfs.number(f"{feed}/online") for feed in feeds]
        # USB supplies say 2 if they have negotiated a programmable voltage.
        if any(number.value in (1, 2) for number in online):
            return self._known(1.0, "bool")
        if any(self._sysfs.text(f"{battery}/status").value == "Charging" for battery in batteries):
            return self._known(1.0, "bool")
        if not feeds:
            # A battery can discharge while the plug is in, so its status says nothing about mains power.
            return self._unknown("bool", "no mains supply is listed")
        for feed, number in zip(feeds, online, strict=True):
            if number.value != 0:
                return self._unknown("bool", number.reason or f"/{feed}/online: {number.value}")
        return self._known(0.0, "bool")

    def _positive(self, battery: str, field: str) -> int | None:
        value = self._sysfs.number(f"{battery}/{field}").value
        return value if value is not None and value >= 0 else None

    def _known(self, value: float, unit: str) -> Reading:
        return Reading(value, unit, self._clock(), _SOURCE)

    def _unknown(self, unit: str, reason: str) -> Reading:
        return Reading.unknown(unit, _SOURCE, reason, self._clock())
