"""What the controller hears of the machine: plain values, None where a device lacks the signal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Signals:
    """Loads and battery level are shares (0..1); None is unknown, never zero."""

    cpu_load: float | None = None
    gpu_load: float | None = None
    gpu_clock_hz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    battery_level: float | None = None


def change(before: Signals, after: Signals) -> float:
    """How much the machine's speed may have changed between two looks: the largest relative move of load or clock."""
    moves = [0.0]
    for old, new in ((before.cpu_load, after.cpu_load), (before.gpu_load, after.gpu_load)):
        if old is not None and new is not None:
            moves.append(abs(new - old))
    if before.gpu_clock_hz and after.gpu_clock_hz:
        moves.append(abs(after.gpu_clock_hz / before.gpu_clock_hz - 1.0))
    return max(moves)
