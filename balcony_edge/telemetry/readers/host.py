"""Load, clock and memory of the processor, through psutil and cpufreq.

Only some functions of psutil are used, because others raise: its temperature sensors on a Jetson with a power-gated
zone, its battery where /sys has no power_supply folder.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from balcony_edge.system import control_group
from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_edge.telemetry.reading import Clock, Reading

_SHORTEST_S = 0.1  # over a shorter time the kernel's counters have hardly moved
_CPUFREQ = "sys/devices/system/cpu/cpufreq"
_FASTEST_HZ = 10e9


def _import_psutil() -> Any:
    return importlib.import_module("psutil")


class HostReader:
    """Load of the processor since the reading before, its clock, and memory.

    ``load``: returns the module psutil; a test gives its own. ``elsewhere``: the files below the root are another
    device's, which psutil cannot read.
    """

    def __init__(
        self,
        *,
        load: Callable[[], Any] = _import_psutil,
        sysfs: Sysfs | None = None,
        clock: Clock = time.monotonic,
        elsewhere: bool = False,
    ) -> None:
        self._load = load
        self._elsewhere = elsewhere
        self._sysfs = sysfs or Sysfs()
        self._clock = clock
        self._thread: int | None = None
        self._last: Reading | None = None
        self._started_s = 0.0
        self._process: Any = None
        self._process_last: Reading | None = None
        self._process_s = 0.0

    def cpu_load(self) -> Reading:
        """Busy share of all cores since the call before, 0 to 1. A thread's first call only begins the interval."""
        now, thread = self._clock(), threading.get_ident()
        if self._last is not None and 0 <= now - self._started_s < _SHORTEST_S:
            return self._last
        percent = self._ask("ratio", lambda psutil: psutil.cpu_percent(interval=None))
        if isinstance(percent, Reading):
            return percent
        # psutil has counters for each thread, and answers a thread's first call with a meaningless 0.0.
        first = thread != self._thread
        self._thread, self._started_s = thread, now
        self._last = self._share(percent, 100, first)
        return self._last

    def process_cpu_load(self) -> Reading:
        """Share of all cores that this process has kept busy since the call before, 0 to 1.

        The first call only begins the interval.
        """
        now = self._clock()
        if self._process_last is not None and 0 <= now - self._process_s < _SHORTEST_S:
            return self._process_last
        first = self._process is None or self._process.pid != os.getpid()
        percent = self._ask("ratio", lambda psutil: self._own(psutil).cpu_percent(interval=None))
        if isinstance(percent, Reading):
            return percent
        self._process_s = now
        # The kernel counts in time slices, so a busy process may seem to use a little more than all cores.
        self._process_last = self._share(percent, 100 * (os.cpu_count() or 1), first, slack=1.2)
        return self._process_last

    def memory(self) -> tuple[Reading, Reading]:
        """(memory that is still available, resident memory of this process), both in bytes."""
        return (
            self._bytes(self._available),
            self._bytes(lambda psutil: self._own(psutil).memory_info().rss),
        )

    def cpu_clock(self) -> Reading:
        """Present clock of the fastest group of cores, Hz."""
        reason = f"no clock under /{_CPUFREQ}"
        fastest = 0
        for policy in self._sysfs.entries(_CPUFREQ):
            if policy.startswith("policy"):
                number = self._sysfs.number(f"{_CPUFREQ}/{policy}/scaling_cur_freq")
                fastest = max(fastest, number.value or 0)
                reason = number.reason or reason
        hertz = fastest * 1e3
        if 0 < hertz <= _FASTEST_HZ:
            return Reading(hertz, "Hz", self._clock(), "cpufreq")
        return Reading.unknown("Hz", "cpufreq", f"{hertz} Hz is implausible" if fastest else reason, self._clock())

    def _available(self, psutil: Any) -> object:
        free = psutil.virtual_memory().available
        # A container's limit may be tighter; it is not below 1, as 0 would mean that nothing was measured.
        allowed = control_group.memory_left(self._sysfs.whole)
        return min(free, max(1, allowed)) if isinstance(free, int) and allowed is not None else free

    def _own(self, psutil: Any) -> Any:
        """psutil's object for this process; a new one after a fork."""
        if self._process is None or self._process.pid != os.getpid():
            self._process = psutil.Process()
        return self._process

    def _ask(self, unit: str, call: Callable[[Any], object]) -> object:
        """psutil's answer, or an unknown Reading if it has none."""
        if self._elsewhere:
            return self._unknown(unit, "psutil only reads this machine, and the files are another device's")
        try:
            return call(self._load())
        except ImportError:
            return self._unknown(unit, "psutil is not installed")
        except Exception as error:  # psutil lets parsing errors of /proc through
            return self._unknown(unit, f"{type(error).__name__}: {error}")

    def _share(self, percent: object, whole: float, first: bool, slack: float = 1.0) -> Reading:
        if first:
            return self._unknown("ratio", "the first interval is not over")
        if not isinstance(percent, (int, float)) or not 0 <= percent <= whole * slack:
            return self._unknown("ratio", f"psutil answered {percent!r}")
        return Reading(min(1.0, percent / whole), "ratio", self._clock(), "psutil")

    def _bytes(self, call: Callable[[Any], object]) -> Reading:
        count = self._ask("B", call)
        if isinstance(count, Reading):
            return count
        if isinstance(count, bool) or not isinstance(count, int) or count <= 0:
            return self._unknown("B", f"psutil answered {count!r}")
        return Reading(float(count), "B", self._clock(), "psutil")

    def _unknown(self, unit: str, reason: str) -> Reading:
        return Reading.unknown(unit, "psutil", reason, self._clock())
