"""What the device's sensors say: one reading of loads, clock, power, temperature and battery as plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Signals:
    """One reading of all sensors. None means that a signal is unknown; it never means zero.

    ``time_s``: when it was taken, in seconds on a monotonic clock.
    ``cpu_load``, ``gpu_load``, ``battery_level``: shares (0..1).
    ``gpu_clock_hz``: the GPU's present clock. ``throttled``: the device holds its clocks down.
    ``power_w``: watts of the whole device. ``temperature_c``: °C of its hottest point.
    ``battery_energy_wh``: watt-hours left. ``battery_power_w``: watts that leave the battery, negative while charging.
    ``on_mains``: external power is connected.
    """

    time_s: float | None = None
    cpu_load: float | None = None
    gpu_load: float | None = None
    gpu_clock_hz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    battery_level: float | None = None
    battery_energy_wh: float | None = None
    battery_power_w: float | None = None
    on_mains: bool | None = None
    throttled: bool | None = None

    def sane(self) -> Signals:
        """A copy in which impossible values (NaN, infinite, negative where that cannot be) are unknown."""
        wrong = {name: None for name in _NAMES if not _possible(name, getattr(self, name))}
        return replace(self, **wrong) if wrong else self


_NAMES = tuple(field.name for field in fields(Signals))
_SIGNED = ("battery_power_w", "temperature_c", "time_s")
_SHARES = ("cpu_load", "gpu_load", "battery_level")


def _possible(name: str, value: float | None) -> bool:
    if value is None:
        return True
    if not math.isfinite(value) or (value < 0 and name not in _SIGNED):
        return False
    return value <= (1.0 if name in _SHARES else 1e12)
