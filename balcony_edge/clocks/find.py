"""Which clocks can be chosen on this device."""

from __future__ import annotations

from collections.abc import Sequence

from balcony_edge.clocks.frequency import CpuClock, GpuClock
from balcony_edge.clocks.knob import Knob
from balcony_edge.clocks.power_mode import PowerModes
from balcony_edge.telemetry.readers.sysfs import Sysfs


def find_knobs(sysfs: Sysfs, modes: Sequence[str] = (), *, gpu: bool) -> list[Knob]:
    """The knobs that this device has: power modes, the GPU's clock if ``gpu``, the CPU's clock. It changes nothing.

    ``modes``: names of power modes to choose from, fastest first. Whether this user may set what is found, only
    setting it tells. What an earlier process left must be put back before (``restore_left_over``).
    """
    knobs: list[Knob] = [PowerModes(sysfs, modes), *([GpuClock(sysfs)] if gpu else []), CpuClock(sysfs)]
    return [knob for knob in knobs if len(knob.clocks) >= 2]
