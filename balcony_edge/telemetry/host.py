"""The host's CPU load through psutil, and nothing else of psutil.

Its sensors raise TypeError on a Jetson with a power-gated zone, and its battery raises where /sys has no
power_supply folder.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from typing import Any

from balcony_edge.telemetry.reading import Clock, Reading

_SHORTEST_S = 0.1  # below that the kernel's counters have hardly moved


def _import_psutil() -> Any:
    return importlib.import_module("psutil")


class HostReader:
    """CPU load since the reading before. ``load`` returns the module ``psutil``; a test gives its own."""

    def __init__(self, *, load: Callable[[], Any] = _import_psutil, clock: Clock = time.monotonic) -> None:
        self._load = load
        self._clock = clock
        self._thread: int | None = None
        self._last: Reading | None = None
        self._started_s = 0.0

    def cpu_load(self) -> Reading:
        """Busy share of all cores, 0 to 1, without blocking. A thread's first call opens the interval."""
        now, thread = self._clock(), threading.get_ident()
        if self._last is not None and now - self._started_s < _SHORTEST_S:
            return self._last
        try:
            percent = self._load().cpu_percent(interval=None)
        except ImportError:
            return self._unknown("psutil is not installed")
        except Exception as error:  # psutil lets parsing errors of /proc through
            return self._unknown(f"{type(error).__name__}: {error}")
        # psutil keeps its counters per thread and answers each thread's first call with a meaningless 0.0.
        first = thread != self._thread
        self._thread, self._started_s = thread, now
        if first:
            self._last = self._unknown("the first interval is not over")
        elif not isinstance(percent, (int, float)) or not 0 <= percent <= 100:
            self._last = self._unknown(f"psutil answered {percent!r}")
        else:
            self._last = Reading(percent / 100, "ratio", now, "psutil")
        return self._last

    def _unknown(self, reason: str) -> Reading:
        return Reading.unknown("ratio", "psutil", reason, self._clock())
