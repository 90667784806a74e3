"""How ``doctor`` and ``watch`` print signals: their public names and units, as JSON and for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from balcony_edge.telemetry.reading import Reading, Snapshot


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal's public name and unit. A snapshot's value times ``scale`` is in that unit."""

    name: str
    unit: str
    scale: float = 1.0


SIGNALS = {
    "cpu_load": Signal("cpu.load", "ratio"),
    "process_cpu_load": Signal("process.cpu_load", "ratio"),
    "cpu_clock_hz": Signal("cpu.clock", "Hz"),
    "gpu_load": Signal("gpu.load", "ratio"),
    "gpu_clock_hz": Signal("gpu.clock", "Hz"),
    "memory_available_bytes": Signal("memory.available", "B"),
    "process_memory_bytes": Signal("process.memory", "B"),
    "power_w": Signal("power.total", "W"),
    "energy_j": Signal("energy.total", "J"),
    "temperature_c": Signal("temperature.chip", "°C"),
    "temperature_limit_c": Signal("temperature.limit", "°C"),
    "throttled": Signal("throttle.active", "bool"),
    "throttle_events": Signal("throttle.events", "count"),
    "power_mode": Signal("power.mode", "id"),
    "battery_level": Signal("battery.percent", "%", 100.0),
    "battery_energy_wh": Signal("battery.energy", "Wh"),
    "battery_power_w": Signal("battery.power", "W"),
    "on_mains": Signal("battery.on_mains", "bool"),
}
"""Field of a snapshot → the signal as it is printed, in the order of the fields."""

_STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def signals(snapshot: Snapshot, now_s: float) -> list[dict[str, Any]]:
    """All signals as ``{"name", "value", "unit", "source", "age_s", "reason"}``.

    An unknown signal has no ``value`` and no ``age_s`` (None), a known one has no ``reason``. ``now_s``:
    ``time.monotonic`` seconds, for the age.
    """
    listed = []
    for field, reading in snapshot:
        signal = SIGNALS[field]
        known = reading.value is not None
        listed.append(
            {
                "name": signal.name,
                "value": None if reading.value is None else round(reading.value * signal.scale, 6),
                "unit": signal.unit,
                "source": reading.source,
                "age_s": round(max(0.0, now_s - reading.time_s), 3) if known else None,
                "reason": None if known else reading.reason,
            }
        )
    return listed


def rows(snapshot: Snapshot) -> Iterator[tuple[str, str, str]]:
    """(name, value, source) of all known signals and (name, "unknown", reason) of the others, for people."""
    for field, reading in snapshot:
        value = format_value(field, reading)
        yield SIGNALS[field].name, value, reading.source if reading.known else reading.reason


def format_value(field: str, reading: Reading) -> str:
    """The value of a snapshot's ``field`` with the unit that people use, or "unknown"."""
    value, unit = reading.value, SIGNALS[field].unit
    if value is None:
        return "unknown"
    if unit == "bool":
        text = "yes" if value else "no"
        return f"{text} ({reading.text})" if reading.text and value else text
    if unit == "id":
        return f"{reading.text} (mode {value:.0f})" if reading.text else f"mode {value:.0f}"
    if unit in ("ratio", "%"):
        return f"{value * 100:.0f} %"
    if unit in ("Hz", "B"):
        step, prefix = next(((step, prefix) for step, prefix in _STEPS if value >= step), (1.0, ""))
        return f"{value / step:.{2 if step == 1e9 else 0}f} {prefix}{unit}"
    if unit == "count":
        return f"{value:.0f} ({reading.text})" if reading.text else f"{value:.0f}"
    text = f"{value:.1f} {unit}"
    return f"{text} ({reading.text})" if reading.text else text
