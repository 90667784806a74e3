"""Measures the power of the device at rest and while it decodes, if it has a sensor for that."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from balcony_edge.telemetry.reading import Snapshot
from balcony_edge.telemetry.sensors import Sensors

WINDOW_S = 6.0
"""Sensors average over a second or more, and are updated every 100 ms at best."""


@dataclass(frozen=True, slots=True)
class PowerDraw:
    """Mean power in W at rest and at work, both read from ``source``."""

    idle_w: float
    busy_w: float
    source: str


def measure_power(
    sensors: Sensors,
    work: Callable[[], None],
    *,
    window_s: float = WINDOW_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> PowerDraw | None:
    """Rest for ``window_s`` seconds, then repeat ``work`` for as long; ``None`` if the energy is not always known."""
    idle = _mean_w(sensors, lambda: sleep(0.1), window_s, clock)
    busy = _mean_w(sensors, work, window_s, clock) if idle is not None else None
    if idle is None or busy is None or idle[1] != busy[1] or not 0 < idle[0] < busy[0]:
        return None
    return PowerDraw(idle[0], busy[0], busy[1])


def _mean_w(
    sensors: Sensors, step: Callable[[], None], window_s: float, clock: Callable[[], float]
) -> tuple[float, str] | None:
    """Mean power in W while ``step`` is repeated, and its source: energy over time, both by the sensor."""
    begun_s = clock()
    first: Snapshot | None = None
    last = sensors.snapshot
    while clock() - begun_s < window_s:
        step()
        last = sensors.snapshot
        if first is None and clock() - begun_s > window_s / 4:
            first = last  # the sensor's mean no longer holds what went before
    if first is None or first.energy_j.value is None or last.energy_j.value is None:
        return None
    elapsed_s = last.energy_j.time_s - first.energy_j.time_s
    joules = last.energy_j.value - first.energy_j.value
    if elapsed_s <= 0 or joules <= 0 or first.energy_j.source != last.energy_j.source:
        return None
    return joules / elapsed_s, last.energy_j.source


def rounded(value: float) -> float:
    """A measured value with four digits: more would be noise."""
    return float(f"{value:.4g}")
