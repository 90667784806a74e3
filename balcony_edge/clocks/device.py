"""Makes changes of clocks: each is written, and read back, since a kernel may clamp a value or ignore it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from balcony_edge.clocks.change import Change, FileWrite, ModeChange
from balcony_edge.clocks.nvpmodel import TIMEOUT_S, set_mode
from balcony_edge.errors import ClockError
from balcony_edge.files.reading import leads_out
from balcony_edge.telemetry.readers.power_mode import PowerModeReader
from balcony_edge.telemetry.readers.sysfs import Sysfs

WriteFile = Callable[[str, bytes], None]
"""``(path, content)``: overwrites a file that exists, or raises an OSError."""

# devfreq keeps whole kHz of the Hz that it is given.
_DEVFREQ_HZ = 1000


def write_file(path: str, content: bytes) -> None:
    """Overwrite a file that exists and is no link, in one call. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def in_force(sysfs: Sysfs, change: Change) -> bool:
    """Whether the device already is as the change would make it; not if it cannot be read."""
    shown = _shown(sysfs, change)
    if isinstance(change, ModeChange):
        return shown == change.mode
    return shown is not None and abs(shown - int(change.text)) < (_DEVFREQ_HZ if "devfreq" in change.path else 1)


class Device:
    """The device below ``sysfs``. ``write`` writes a file; nvpmodel may take ``timeout_s``."""

    def __init__(self, sysfs: Sysfs, write: WriteFile = write_file, timeout_s: float = TIMEOUT_S) -> None:
        self.sysfs = sysfs
        self._write = write
        self._timeout_s = timeout_s

    def make(self, change: Change) -> None:
        """Make one change. Raises ClockError if it cannot be made, or is not in force afterwards."""
        self._make(change)
        if not in_force(self.sysfs, change):
            raise self._ignored(change)

    def put_back(self, undo: Iterable[Change]) -> list[Change]:
        """Make all changes that are not in force, even if one fails; returns those made. Raises ClockError at the end.

        A cap that came up less far than it was is put back: the kernel has noted it, and heat holds the clock down. A
        power mode is set in any case: one that was cut short in a change to another still says that it is in force.
        """
        made: list[Change] = []
        failed: list[ClockError] = []
        for change in undo:
            if isinstance(change, FileWrite) and in_force(self.sysfs, change):
                continue
            before = _shown(self.sysfs, change)
            try:
                self._make(change)
                moved = isinstance(change, FileWrite) and _shown(self.sysfs, change) not in (None, before)
                if not moved and not in_force(self.sysfs, change):
                    raise self._ignored(change)
                made.append(change)
            except ClockError as error:
                if not in_force(self.sysfs, change):
                    failed.append(error)
        if failed:
            raise ClockError("not put back: " + "; ".join(error.message for error in failed), failed[0].hint)
        return made

    def _make(self, change: Change) -> None:
        if isinstance(change, ModeChange):
            set_mode(change.mode, self._timeout_s)
            return
        path = self.sysfs.path(change.path)
        try:
            if leads_out(Path(path), Path(self.sysfs.path(""))):
                raise OSError(errno.ELOOP, "it leads elsewhere")
            self._write(path, change.text.encode())
        except OSError as error:
            raise ClockError(f"cannot set {change}: {error.strerror or error}", _next_step(error, path)) from error

    def _ignored(self, change: Change) -> ClockError:
        shown = _shown(self.sysfs, change)
        return ClockError(
            f"cannot set {change}: the device took it and shows {'nothing' if shown is None else shown}",
            "something else holds it: heat, a power mode or another program",
        )


def _shown(sysfs: Sysfs, change: Change) -> int | None:
    if isinstance(change, FileWrite):
        return sysfs.number(change.path).value
    mode = PowerModeReader(sysfs, time.monotonic).read().value
    return None if mode is None else int(mode)


def _next_step(error: OSError, path: str) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"run with sudo, or give yourself the file until the next boot: sudo chown $USER {path}"
    if error.errno == errno.EROFS:
        return "this container may not change the device: give it /sys to write, or run outside of it"
    return "the kernel refuses it: choose another clock, or leave it alone"
