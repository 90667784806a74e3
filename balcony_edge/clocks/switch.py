"""Sets a clock for a while: nothing before ``set``, and all is put back at the end."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from balcony_edge.clocks.device import Device, WriteFile, in_force, write_file
from balcony_edge.clocks.guard import Guard, state_folder
from balcony_edge.clocks.journal import Journal, put_back, unlock
from balcony_edge.clocks.knob import Knob
from balcony_edge.clocks.nvpmodel import TIMEOUT_S
from balcony_edge.errors import ClockError
from balcony_edge.telemetry.readers.sysfs import Sysfs


class ClockSwitch:
    """Sets one knob of the device below ``sysfs``; a context manager, for one thread at a time.

    One switch at a time may set clocks, of all processes of this user. The first change starts a small process that
    puts back should this one be killed.
    """

    def __init__(
        self, knob: Knob, sysfs: Sysfs, *, write: WriteFile = write_file, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.knob = knob
        self._device = Device(sysfs, write, timeout_s)
        self._guard: Guard | None = None

    @property
    def clocks(self) -> tuple[str, ...]:
        """The knob's clocks, fastest first."""
        return self.knob.clocks

    @property
    def present(self) -> str | None:
        """The clock in force now, read from the device; None if it is none of them or unknown."""
        return self.knob.present()

    def set(self, clock: str) -> None:
        """Make a clock be in force; one that is already, costs no write.

        Raises:
            ClockError: it cannot be set, or the device does not keep to it. All is then as before the first ``set``,
                or the error says what is not.
            ValueError: there is no such clock.
        """
        if all(in_force(self._device.sysfs, change) for change in self.knob.to(clock)):
            return
        if self._guard is None:
            self._guard = Guard(self._device, self.knob.undo)
        try:
            for change in self.knob.to(clock):
                if not in_force(self._device.sysfs, change):
                    self._device.make(change)
        except ClockError as error:
            try:
                self.restore()
            except ClockError as failed:
                raise ClockError(f"{error.message}; {failed.message}", error.hint) from error
            raise
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Put everything back as it was before the first ``set``.

        Raises ClockError if something cannot be; the rest is. It is tried again by the next call, at the end of this
        process, and by ``restore_left_over``.
        """
        if self._guard is not None:
            self._guard.end()
            self._guard = None

    def __enter__(self) -> ClockSwitch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.restore()


def left_over() -> bool:
    """Whether a killed process has left clocks that nobody has put back; changes nothing."""
    folder = state_folder()
    if folder is None or not os.path.lexists(Journal(folder).path):
        return False
    try:
        lock = Journal(Path(folder)).try_lock()
    except ClockError:
        return True
    if lock is not None:
        unlock(lock)
    return lock is not None


def restore_left_over(root: str | os.PathLike[str] = "/", *, timeout_s: float = TIMEOUT_S) -> str | None:
    """Put back what a killed process has left: what was done, for people; None if there was nothing to do.

    For the start of a program. What a living process has set is left alone. Raises ClockError if it cannot be put back,
    or the journal is not one that was written.
    """
    folder = state_folder()
    if folder is None or not os.path.lexists(Journal(folder).path):
        return None
    journal = Journal(Path(folder))
    lock = journal.try_lock()
    if lock is None:
        return None
    try:
        return put_back(journal, Device(Sysfs(root), timeout_s=timeout_s))
    finally:
        unlock(lock)
