"""A Jetson's power mode (nvpmodel), from two small files, without root and without running nvpmodel."""

from __future__ import annotations

import re

from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_edge.telemetry.reading import Clock, Reading

STATUS = "var/lib/nvpmodel/status"
CONFIG = "etc/nvpmodel.conf"
_LARGEST_CONFIG = 1 << 18

_MODE = re.compile(r"pmode:0*([0-9]{1,4})\b")
_NAME = re.compile(r"<\s*POWER_MODEL\s+ID=([0-9]+)\s+NAME=(\S+?)\s*>")


class PowerModeReader:
    """Reads the power mode in force, which can change at any time. The names of the modes are read once."""

    def __init__(self, sysfs: Sysfs, clock: Clock) -> None:
        self._sysfs = sysfs
        self._clock = clock
        self._names: dict[int, str] = {}

    def read(self) -> Reading:
        """The number of the mode, with its name as ``text``; that is empty if it has none."""
        status = self._sysfs.text(STATUS, 256)
        if status.value is None:
            reason = "this device has no nvpmodel" if "ENOENT" in status.reason else status.reason
            return Reading.unknown("id", "nvpmodel", reason, self._clock())
        found = _MODE.search(status.value)
        if found is None:
            return Reading.unknown("id", "nvpmodel", f"/{STATUS} names no mode", self._clock())
        mode = int(found[1])
        if mode not in self._names:
            self._names = mode_names(self._sysfs)
        return Reading(float(mode), "id", self._clock(), "nvpmodel", text=self._names.get(mode, ""))


def mode_names(sysfs: Sysfs) -> dict[int, str]:
    """Number → name of the power modes that this board's configuration defines; empty without a configuration."""
    config = sysfs.text(CONFIG, _LARGEST_CONFIG).value or ""
    return {int(number): name for number, name in _NAME.findall(config)}
