"""Which readers give which signals on a device, in order of preference."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from balcony_edge.telemetry.injected import BatterySource, InjectedBattery
from balcony_edge.telemetry.readers.battery import BatteryReader
from balcony_edge.telemetry.readers.energy import EnergyMeter
from balcony_edge.telemetry.readers.host import HostReader
from balcony_edge.telemetry.readers.jetson import JetsonReader
from balcony_edge.telemetry.readers.nvml import NvmlReader
from balcony_edge.telemetry.readers.power_mode import PowerModeReader
from balcony_edge.telemetry.readers.rails import ModulePower
from balcony_edge.telemetry.readers.rapl import RaplReader
from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_edge.telemetry.readers.thermal import ThermalReader
from balcony_edge.telemetry.readers.throttle import ThrottleReader
from balcony_edge.telemetry.reading import UNITS, Clock, Reading

FAST_SIGNALS = frozenset({"cpu_load", "process_cpu_load", "gpu_load", "gpu_clock_hz"})
"""Signals that change within a token or two. The others are polled less often."""


def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True)
class Source:
    """A function that reads one or more signals.

    Attributes:
        name: its name in readings and messages.
        signals: fields of a Snapshot.
        read: returns one reading for each of ``signals``, in that order.
        close: releases what ``read`` uses.
        together: whether the signals belong together (a chip's temperature and its limit): then either all of them are
            taken from this source or none. The first one decides: if it is known, all are taken.

    Raises:
        ValueError: if a signal is not a Snapshot's, or if fast and slow signals are mixed.
    """

    name: str
    signals: tuple[str, ...]
    read: Callable[[], Sequence[Reading]]
    close: Callable[[], None] = _nothing
    together: bool = False

    def __post_init__(self) -> None:
        misnamed = [signal for signal in self.signals if signal not in UNITS]
        if misnamed or not self.signals:
            given = ", ".join(misnamed) or "nothing"
            raise ValueError(f"source {self.name}: {given} is not a signal; there are {', '.join(UNITS)}")
        if len({signal in FAST_SIGNALS for signal in self.signals}) > 1:
            raise ValueError(f"source {self.name} mixes fast and slow signals: {', '.join(self.signals)}")

    @property
    def fast(self) -> bool:
        """Whether its signals change fast."""
        return self.signals[0] in FAST_SIGNALS

    @classmethod
    def single(
        cls, name: str, signal: str, read: Callable[[], Reading], close: Callable[[], None] = _nothing
    ) -> Source:
        """A source of one signal; ``read`` returns its reading."""
        return cls(name, (signal,), lambda: (read(),), close)


def device_sources(
    root: str | os.PathLike[str] = "/",
    *,
    battery: BatterySource | None = None,
    nvml: bool = True,
    clock: Clock = time.monotonic,
) -> tuple[Source, ...]:
    """All sources for this machine. For each signal the first that knows a value is used. Nothing is read yet.

    Args:
        root: the folder that holds sys, proc and etc. Below another root than ``/`` are another device's files; psutil
            only reads this machine, so its signals are unknown then.
        battery: read the battery from here instead of from the kernel.
        nvml: whether to use NVIDIA's library. Without it a laptop's GPU can sleep while the model runs on the CPU.
        clock: seconds; a test gives its own.
    """
    sysfs = Sysfs(root)
    jetson = JetsonReader(sysfs=sysfs, clock=clock)
    host = HostReader(sysfs=sysfs, clock=clock, elsewhere=os.fspath(root) != "/")
    rails = ModulePower(sysfs, clock)
    thermal = ThermalReader(sysfs, clock)
    throttle = ThrottleReader(sysfs, clock)
    mode = PowerModeReader(sysfs, clock)
    rapl = RaplReader(sysfs, clock)
    pack = BatteryReader(sysfs=sysfs, clock=clock) if battery is None else InjectedBattery(battery, clock=clock)
    power, heat = ("power_w", "energy_j"), ("temperature_c", "temperature_limit_c")
    sources = [
        Source.single("psutil", "cpu_load", host.cpu_load),
        Source.single("psutil", "process_cpu_load", host.process_cpu_load),
        Source.single("jetson", "gpu_load", jetson.gpu_load),
        Source.single("jetson", "gpu_clock_hz", jetson.gpu_clock),
        Source.single("cpufreq", "cpu_clock_hz", host.cpu_clock),
        Source("psutil", ("memory_available_bytes", "process_memory_bytes"), host.memory),
        Source("jetson", power, _metered(rails.read), together=True),
        Source("thermal", heat, thermal.chip, together=True),
        Source("sysfs", ("throttled", "throttle_events"), throttle.read),
        Source.single("nvpmodel", "power_mode", mode.read),
        Source("battery", ("battery_level", "battery_power_w", "on_mains", "battery_energy_wh"), pack.read),
    ]
    if nvml:
        card = NvmlReader(sysfs=sysfs, clock=clock)
        sources += [
            Source.single("nvml", "gpu_load", card.gpu_load, card.close),
            Source.single("nvml", "gpu_clock_hz", card.gpu_clock),
            Source("nvml", power, _metered(card.power, card.energy), together=True),
            Source("nvml", heat, lambda: (card.temperature(), card.temperature_limit()), together=True),
            Source.single("nvml", "throttled", card.throttled),
        ]
    sources += [
        Source("rapl", power, rapl.read, together=True),
        Source("battery", power, _metered(pack.system_power), together=True),
        Source("thermal", heat, thermal.host, together=True),
    ]
    return tuple(sources)


def _metered(
    power: Callable[[], Reading], counter: Callable[[], Reading] | None = None
) -> Callable[[], tuple[Reading, Reading]]:
    """A function that reads power and energy. Without a ``counter`` of energy, the power is added up over time."""
    meter = EnergyMeter()

    def read() -> tuple[Reading, Reading]:
        watts = power()
        added = meter.add(watts)
        counted = counter() if counter is not None and watts.known else added
        return watts, counted if counted.known else added

    return read
