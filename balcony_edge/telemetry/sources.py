"""Which readers serve which signals on a device, in order of preference."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from balcony_edge.telemetry.battery import BatteryReader
from balcony_edge.telemetry.host import HostReader
from balcony_edge.telemetry.injected import BatterySource, InjectedBattery
from balcony_edge.telemetry.jetson import JetsonReader
from balcony_edge.telemetry.nvml import NvmlReader
from balcony_edge.telemetry.reading import UNITS, Clock, Reading

FAST_SIGNALS = frozenset({"cpu_load", "gpu_load", "gpu_clock_hz"})
"""Signals that change within a token or two; the others are read on the slow tier."""


def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to ask: ``read`` returns one reading for each of ``signals``, in that order.

    Raises:
        ValueError: if a signal is not one of a snapshot's, or if fast and slow ones are mixed.
    """

    name: str
    signals: tuple[str, ...]
    read: Callable[[], Sequence[Reading]]
    close: Callable[[], None] = _nothing

    def __post_init__(self) -> None:
        strangers = [signal for signal in self.signals if signal not in UNITS]
        if strangers or not self.signals:
            given = ", ".join(strangers) or "nothing"
            raise ValueError(f"source {self.name}: {given} is not a signal; there are {', '.join(UNITS)}")
        if len({signal in FAST_SIGNALS for signal in self.signals}) > 1:
            raise ValueError(f"source {self.name} mixes fast and slow signals: {', '.join(self.signals)}")

    @property
    def fast(self) -> bool:
        """Whether its signals belong to the fast tier."""
        return self.signals[0] in FAST_SIGNALS

    @classmethod
    def single(
        cls, name: str, signal: str, read: Callable[[], Reading], close: Callable[[], None] = _nothing
    ) -> Source:
        """A source of one signal, from a function that returns its reading."""
        return cls(name, (signal,), lambda: (read(),), close)


def device_sources(
    root: str | os.PathLike[str] = "/",
    *,
    battery: BatterySource | None = None,
    nvml: bool = True,
    clock: Clock = time.monotonic,
) -> tuple[Source, ...]:
    """The readers for this machine; for each signal the first that knows a value wins. Nothing is read here.

    ``battery`` takes the place of the kernel's batteries. ``nvml=False`` leaves NVIDIA's library alone, which
    lets a laptop's GPU sleep while the model runs on the CPU.
    """
    jetson = JetsonReader(root, clock=clock)
    host = HostReader(clock=clock)
    pack = BatteryReader(root, clock=clock) if battery is None else InjectedBattery(battery, clock=clock)
    sources = [
        Source.single("psutil", "cpu_load", host.cpu_load),
        Source.single("jetson", "gpu_load", jetson.gpu_load),
        Source.single("jetson", "gpu_clock_hz", jetson.gpu_clock),
        Source.single("jetson", "power_w", jetson.power),
        Source.single("jetson", "temperature_c", jetson.temperature),
        Source("battery", ("battery_level", "battery_power_w", "on_mains"), pack.read),
    ]
    if nvml:
        card = NvmlReader(root=root, clock=clock)
        sources += [
            Source.single("nvml", "gpu_load", card.gpu_load, card.close),
            Source.single("nvml", "gpu_clock_hz", card.gpu_clock),
            Source.single("nvml", "power_w", card.power),
            Source.single("nvml", "temperature_c", card.temperature),
        ]
    return tuple(sources)
