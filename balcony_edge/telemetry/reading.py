"""A reading is one measured value; a snapshot is an immutable set with one reading of every signal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Clock = Callable[[], float]
"""A clock in seconds that never goes back: ``time.monotonic``, or a test's own."""

NOT_YET_READ = "not read yet"

UNITS = {
    "cpu_load": "ratio",
    "process_cpu_load": "ratio",
    "cpu_clock_hz": "Hz",
    "gpu_load": "ratio",
    "gpu_clock_hz": "Hz",
    "memory_available_bytes": "B",
    "process_memory_bytes": "B",
    "power_w": "W",
    "energy_j": "J",
    "temperature_c": "°C",
    "temperature_limit_c": "°C",
    "throttled": "bool",
    "throttle_events": "count",
    "power_mode": "id",
    "battery_level": "ratio",
    "battery_energy_wh": "Wh",
    "battery_power_w": "W",
    "on_mains": "bool",
}
"""Every signal of a :class:`Snapshot`, in order, with its unit."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A measured value, or the reason why there is none.

    Attributes:
        value: in ``unit``. ``None`` means unknown; it is never replaced by 0.
        unit: "ratio", "Hz", "W", …
        time_s: when it was read, in ``time.monotonic`` seconds.
        source: where it was read, such as ``"nvml"`` or ``"ina3221:VDD_IN"``.
        reason: why it is unknown.
        text: the value's name, if it has one: power mode 1 is ``"25W"``.

    Raises:
        ValueError: if ``value`` is NaN or infinite, which no sensor means.
    """

    value: float | None
    unit: str
    time_s: float
    source: str
    reason: str = ""
    text: str = ""

    def __post_init__(self) -> None:
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"{self.source} read {self.value} {self.unit}: a reading is finite or unknown")

    @classmethod
    def unknown(cls, unit: str, source: str, reason: str, time_s: float | None = None) -> Reading:
        """A reading without a value; ``time_s`` is now by default."""
        return cls(None, unit, time.monotonic() if time_s is None else time_s, source, reason)

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return self.value is not None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All signals at one moment. It never changes, so it can be used while a thread makes the next one."""

    cpu_load: Reading
    """Share of all cores that is busy, 0 to 1."""
    process_cpu_load: Reading
    """Share of all cores that this process keeps busy, 0 to 1; ``cpu_load`` minus this is the work of others."""
    cpu_clock_hz: Reading
    """Clock of the fastest cores, Hz."""
    gpu_load: Reading
    """Share of the time in which the GPU is busy, for all processes, 0 to 1."""
    gpu_clock_hz: Reading
    """Clock of the GPU's cores, Hz. Unknown while the GPU is power-gated."""
    memory_available_bytes: Reading
    """Memory that a process could still take without swapping, bytes."""
    process_memory_bytes: Reading
    """Resident memory of this process, bytes."""
    power_w: Reading
    """W of the module (Jetson rails), the graphics card (NVML), the processor (RAPL) or, on battery, the whole
    laptop: ``source`` says which."""
    energy_j: Reading
    """J used by what ``power_w`` measures, counted from an arbitrary moment: only differences mean something. A value
    below the one before means that the count began anew."""
    temperature_c: Reading
    """Hottest point of the chip, °C."""
    temperature_limit_c: Reading
    """Where that chip is slowed down (or switched off, if only that is known), °C; ``text`` says which."""
    throttled: Reading
    """1.0 while the device holds its clocks down for heat, current or power, else 0.0; ``text`` says why."""
    throttle_events: Reading
    """How often over-current or heat has cut the clocks since boot; ``text`` has the single counters."""
    power_mode: Reading
    """Number of the nvpmodel mode; ``text`` is its name. The watts in a name cap clocks; they are not what is drawn."""
    battery_level: Reading
    """Energy left over energy when full, 0 to 1, over all batteries."""
    battery_energy_wh: Reading
    """Energy left in all batteries, Wh."""
    battery_power_w: Reading
    """Power of the batteries, W: positive while discharging, negative while charging."""
    on_mains: Reading
    """1.0 while mains or USB power is plugged in, else 0.0."""

    @classmethod
    def unknown(cls, reason: str = NOT_YET_READ) -> Snapshot:
        """A snapshot in which every signal is unknown, for this reason."""
        now = time.monotonic()
        return cls(**{name: Reading.unknown(unit, "none", reason, now) for name, unit in UNITS.items()})

    def __iter__(self) -> Iterator[tuple[str, Reading]]:
        """Pairs of signal name and reading, in the order of the fields."""
        for name in UNITS:
            yield name, getattr(self, name)

    def describe(self) -> str:
        """One short line: ``cpu 45 %, gpu unknown, battery 98 % (discharging 6.2 W)``.

        CPU and GPU are always there, other signals only if they are known.
        """
        gpu = f"gpu {_percent(self.gpu_load)}"
        if self.gpu_clock_hz.value is not None:
            gpu += f" at {self.gpu_clock_hz.value / 1e6:.0f} MHz"
        parts = [f"cpu {_percent(self.cpu_load)}", gpu]
        if self.power_w.value is not None:
            parts.append(f"{self.power_w.value:.1f} W")
        if self.temperature_c.value is not None:
            parts.append(f"{self.temperature_c.value:.0f} °C")
        if self.throttled.value:
            parts.append(f"throttled ({self.throttled.text})" if self.throttled.text else "throttled")
        parts.extend(self._describe_battery())
        return ", ".join(parts)

    def _describe_battery(self) -> Iterator[str]:
        level, power = self.battery_level.value, self.battery_power_w.value
        if level is not None or power is not None:
            # Rounded down, as every desktop shows it: 100 % only when full.
            text = "battery unknown" if level is None else f"battery {math.floor(level * 100 + 1e-9)} %"
            if power is not None:
                direction = "discharging" if power > 0 else "charging"
                text += f" ({direction} {abs(power):.1f} W)" if power else " (idle)"
            yield text
        if self.on_mains.value:
            yield "on mains"


def _percent(reading: Reading) -> str:
    return "unknown" if reading.value is None else f"{reading.value * 100:.0f} %"
