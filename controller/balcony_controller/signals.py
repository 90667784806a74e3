"""What the controller hears of the machine: plain values, None where a device lacks the signal."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Signals:
    """One look at the machine. ``time_s`` is on a clock that never goes back; None is unknown, never zero.

    Loads and battery level are shares (0..1). ``power_w``: of the whole device; ``battery_power_w``: what leaves the
    battery (negative while charging). ``throttled``: the device holds its clocks down.
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
        """The same with everything that no device can mean (NaN, infinite, negative where it cannot be) unknown."""
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


def change(before: Signals, after: Signals) -> float:
    """How much the machine's speed may have changed between two looks: the largest move of a load."""
    moves = [0.0]
    for old, new in ((before.cpu_load, after.cpu_load), (before.gpu_load, after.gpu_load)):
        if old is not None and new is not None:
            moves.append(abs(new - old))
    if after.throttled and before.throttled is False:
        moves.append(1.0)
    return max(moves)
