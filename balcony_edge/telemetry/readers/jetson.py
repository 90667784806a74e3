"""Load and clock of a Jetson's GPU, from sysfs, without root and without tegrastats.

Nano, Xavier, Orin    /sys/class/devfreq/<gpu>/device/load   per-mille
Thor                  no load file; marked by /sys/class/devfreq/gpu-gpc-0, which does have a clock
"""

from __future__ import annotations

import os
import time

from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_edge.telemetry.reading import Clock, Reading

DEVFREQ = "sys/class/devfreq"
THOR_GPU = "gpu-gpc-0"

_GPU_NAMES = frozenset({"gv11b", "gp10b", "ga10b", "gb10b", "gpu"})
# JetPack's own links, for a kernel that does not list its GPU under devfreq.
_FIXED_LOADS = ("sys/devices/platform/gpu.0/load", "sys/devices/gpu.0/load")
_FASTEST_HZ = 10e9


class JetsonReader:
    """Reads one signal at a time. One that is absent, power-gated or implausible is unknown.

    Nothing is remembered between calls, so a file that appears late or is renamed is found by the next call.
    """

    def __init__(
        self, root: str | os.PathLike[str] = "/", *, sysfs: Sysfs | None = None, clock: Clock = time.monotonic
    ) -> None:
        self._sysfs = sysfs or Sysfs(root)
        self._clock = clock

    def gpu_load(self) -> Reading:
        """Busy share of the GPU, for all processes, 0 to 1. 0 means that the GPU is idle or power-gated."""
        reasons = []
        nodes = [f"{DEVFREQ}/{node}/device/load" for node in self.gpu_nodes()]
        for path in [*nodes, *_FIXED_LOADS]:
            number = self._sysfs.number(path)
            if number.value is not None and 0 <= number.value <= 1000:
                return Reading(number.value / 1000, "ratio", self._clock(), "devfreq")
            reasons.append(number.reason or f"/{path}: {number.value} is not a per-mille")
        if nodes:
            return self._unknown("ratio", reasons[0])
        if THOR_GPU in self._sysfs.entries(DEVFREQ):
            return self._unknown("ratio", "this GPU has no load file (Thor)")
        return self._unknown("ratio", f"no GPU under /{DEVFREQ}")

    def gpu_clock(self) -> Reading:
        """Present clock of the GPU, Hz. Unknown while the GPU is power-gated, for which the kernel says 0."""
        nodes = self.gpu_nodes()
        if THOR_GPU in self._sysfs.entries(DEVFREQ):
            nodes.insert(0, THOR_GPU)
        reason = f"no GPU under /{DEVFREQ}"
        for node in nodes:
            number = self._sysfs.number(f"{DEVFREQ}/{node}/cur_freq")
            if number.value is not None and 0 < number.value <= _FASTEST_HZ:
                return Reading(float(number.value), "Hz", self._clock(), "devfreq")
            if number.value == 0:
                reason = "the GPU is power-gated"
            else:
                reason = number.reason or f"{node}: {number.value} Hz is implausible"
        return self._unknown("Hz", reason)

    def gpu_nodes(self) -> list[str]:
        """The entries of devfreq that are GPUs by their device-tree node. Their own names differ by release."""
        nodes = []
        for node in self._sysfs.entries(DEVFREQ):
            name = self._sysfs.text(f"{DEVFREQ}/{node}/device/of_node/name").value
            if name is not None and (name in _GPU_NAMES or "gpu" in name.lower()):
                nodes.append(node)
        return nodes

    def _unknown(self, unit: str, reason: str) -> Reading:
        return Reading.unknown(unit, "devfreq", reason, self._clock())
