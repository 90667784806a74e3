"""The chip's temperature, and the temperature at which it is slowed down, from thermal zones and hwmon.

Jetson        /sys/class/thermal/thermal_zone*: tj, else the hottest of cpu, gpu, cv and soc
Pi, RK3588    the hottest of all zones of the chip: package or soc, clusters of cores, gpu, npu
x86           zone x86_pkg_temp, else hwmon coretemp, k10temp or zenpower
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_edge.telemetry.reading import Clock, Reading

_ZONES = "sys/class/thermal"
_HWMON = "sys/class/hwmon"
# "tj-thermal" on Orin and Thor, "GPU-therm" on older boards, "bigcore0-thermal" on RK3588, "cpu0-0-top-thermal" on
# Snapdragons, "soc_thermal" on Amlogic. PMIC-Die always reports the same, so it is left out.
_CHIP_ZONE = re.compile(
    r"((tj|cv|soc|npu|package|center|bigcore|littlecore)[0-9]*|(cpu|gpu)[a-z0-9_-]*)[_-]therm", re.IGNORECASE
)
_HOST_ZONE = re.compile(r"x86_pkg_temp", re.IGNORECASE)
_HOST_CHIPS = ("coretemp", "k10temp", "zenpower")
_COLDEST_C, _HOTTEST_C = -50.0, 200.0
_TRIPS = 16
# Kinds of trip points, the mildest first. One more kind, "active", only starts a fan.
_TRIP_KINDS = ("passive", "hot", "critical")
_LIMIT_CACHED_S = 60.0
"""A board has dozens of trip points, which hardly ever change: they are read again after this many seconds."""


class ThermalReadings(NamedTuple):
    """The temperature of a chip and the limit that belongs to it, both in °C."""

    temperature: Reading
    limit: Reading


class ThermalReader:
    """Reads thermal zones one by one. One that is power-gated is left out for now; the others count."""

    def __init__(self, sysfs: Sysfs, clock: Clock) -> None:
        self._sysfs = sysfs
        self._clock = clock
        self._limits: dict[str, tuple[float, Reading]] = {}

    def chip(self) -> ThermalReadings:
        """The junction temperature (``tj``) of a Jetson; without that zone, the hottest of the chip's zones."""
        return self._hottest(self._zones(_CHIP_ZONE), "chip")

    def host(self) -> ThermalReadings:
        """The temperature of an x86 processor."""
        zones = self._zones(_HOST_ZONE)
        return self._hottest(zones, "package") if zones else self._sensors()

    def _zones(self, kinds: re.Pattern[str]) -> list[tuple[str, str]]:
        zones = []
        for entry in self._sysfs.entries(_ZONES):
            kind = self._sysfs.text(f"{_ZONES}/{entry}/type").value if entry.startswith("thermal_zone") else None
            if kind is not None and kinds.match(kind):
                zones.append((f"{_ZONES}/{entry}", kind))
        return zones

    def _hottest(self, zones: list[tuple[str, str]], what: str) -> ThermalReadings:
        hottest: tuple[float, str] | None = None
        reason = f"no {what} zone under /{_ZONES}"
        for zone, kind in zones:
            number = self._sysfs.number(f"{zone}/temp")
            celsius = _celsius(number.value)
            if celsius is None:
                # A power-gated zone answers EAGAIN or -256 °C.
                reason = number.reason or f"{kind}: {(number.value or 0) / 1000} °C is implausible"
            elif kind.lower().startswith("tj"):
                hottest = celsius, kind
                break
            elif hottest is None or celsius > hottest[0]:
                hottest = celsius, kind
        limit = self._cached_limit(what, zones)
        if hottest is None:
            return ThermalReadings(self._unknown("thermal", reason), limit)
        return ThermalReadings(Reading(hottest[0], "°C", self._clock(), f"thermal:{hottest[1]}"), limit)

    def _cached_limit(self, what: str, zones: list[tuple[str, str]]) -> Reading:
        """The limit of the zones, read again if it is older than _LIMIT_CACHED_S. ``what``: the cache's key."""
        now = self._clock()
        read_s, limit = self._limits.get(what, (-math.inf, None))
        if limit is None or not limit.known or not 0 <= now - read_s <= _LIMIT_CACHED_S:
            limit = self._limit(zones)
            self._limits[what] = now, limit
        return Reading(limit.value, "°C", now, limit.source, limit.reason, limit.text)

    def _limit(self, zones: list[tuple[str, str]]) -> Reading:
        """The lowest trip point of the mildest kind that any of the zones has."""
        found: dict[str, float] = {}
        for zone, _ in zones:
            for trip in range(_TRIPS):
                kind = self._sysfs.text(f"{zone}/trip_point_{trip}_type").value
                if kind is None:
                    break
                celsius = _celsius(self._sysfs.number(f"{zone}/trip_point_{trip}_temp").value)
                # An unused trip point reads 0 or less.
                if kind in _TRIP_KINDS and celsius is not None and celsius > 0:
                    found[kind] = min(celsius, found.get(kind, math.inf))
        for kind in _TRIP_KINDS:
            if kind in found:
                return Reading(found[kind], "°C", self._clock(), "thermal:trip_point", text=kind)
        return self._unknown("thermal:trip_point", "no zone of the chip has a trip point")

    def _sensors(self) -> ThermalReadings:
        for entry in self._sysfs.entries(_HWMON):
            base = f"{_HWMON}/{entry}"
            name = self._sysfs.text(f"{base}/name").value
            if name not in _HOST_CHIPS:
                continue
            celsius = _celsius(self._sysfs.number(f"{base}/temp1_input").value)
            if celsius is None:
                continue
            limit = _celsius(self._sysfs.number(f"{base}/temp1_crit").value)
            now, source = self._clock(), f"hwmon:{name}"
            return ThermalReadings(
                Reading(celsius, "°C", now, source),
                self._unknown(source, "the sensor names no critical temperature")
                if limit is None
                else Reading(limit, "°C", now, source, text="critical"),
            )
        reason = f"no sensor of the processor under /{_ZONES} or /{_HWMON}"
        return ThermalReadings(self._unknown("hwmon", reason), self._unknown("hwmon", reason))

    def _unknown(self, source: str, reason: str) -> Reading:
        return Reading.unknown("°C", source, reason, self._clock())


def _celsius(millidegrees: int | None) -> float | None:
    celsius = None if millidegrees is None else millidegrees / 1000
    return celsius if celsius is not None and _COLDEST_C < celsius < _HOTTEST_C else None
