"""What stands ready while clocks are changed: the lock, the journal on disk, and the watcher."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from balcony_edge.clocks.change import Change
from balcony_edge.clocks.device import Device
from balcony_edge.clocks.journal import Entry, Journal, boot_id, put_back, unlock
from balcony_edge.errors import ClockError
from balcony_edge.files.home import user_folder
from balcony_edge.system import child

VARIABLE = "BALCONY_STATE_DIR"
# How long a watcher that is no longer needed may take to end.
_END_S = 10.0
_NO_WATCHER = "leave the clock alone here, or run where Python can start one more process"


def state_folder() -> Path | None:
    """Where the journal is: ``BALCONY_STATE_DIR`` if that is set, else the system's usual place; None without any."""
    folder = user_folder(VARIABLE, platformdirs.user_state_dir)
    return None if folder is None else folder.absolute()


class Guard:
    """From before the first change to after the last is put back.

    What an earlier process left is put back first; then ``undo`` is asked what to put back at the end. Raises
    ClockError if another process sets clocks, or if putting back could not be promised; nothing is changed then.
    """

    def __init__(self, device: Device, undo: Callable[[], list[Change]]) -> None:
        folder = state_folder()
        if folder is None:
            raise ClockError("there is no place for the journal of clocks: no home", f"set {VARIABLE}=FOLDER")
        self._pid = os.getpid()
        self._device = device
        self._journal = Journal(folder)
        lock = self._journal.try_lock()
        if lock is None:
            raise ClockError(f"{self._journal.holder()} sets clocks already", "wait for its end, or end it")
        self._lock = lock
        try:
            put_back(self._journal, device)
            self.undo = undo()
            self._journal.write(Entry(boot_id(device.sysfs), self._pid, self.undo))
            try:
                self._watcher = self._watch(folder)
            except BaseException:
                self._journal.remove()
                raise
        except BaseException:
            unlock(lock)
            raise

    def end(self) -> None:
        """Put all back, and end. Raises ClockError if that fails; the guard then stays, for another try."""
        if os.getpid() != self._pid:  # a fork of the process that sets clocks
            return
        self._device.put_back(self.undo)
        self._journal.remove()
        _end(self._watcher)
        unlock(self._lock)

    def _watch(self, folder: Path) -> subprocess.Popen[Any]:
        root, lock = Path(self._device.sysfs.path("")).absolute(), self._lock
        try:
            watcher = child.start(
                "balcony_edge.clocks.watcher",
                *(str(root), str(folder), str(self._pid), str(lock)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(lock,),
            )
        except child.UnavailableError as error:
            raise ClockError(f"no clock is set without a process that puts it back: {error}", _NO_WATCHER) from error
        try:
            # Only from its first byte on, signals leave it alone.
            if watcher.stdout is None or not watcher.stdout.read(1):
                raise ClockError("no clock is set: the process that would put it back did not start", _NO_WATCHER)
        except BaseException:
            _end(watcher)
            raise
        return watcher


def _end(watcher: subprocess.Popen[Any]) -> None:
    for pipe in (watcher.stdin, watcher.stdout):
        if pipe is not None:
            pipe.close()
    try:
        watcher.wait(_END_S)
    except subprocess.TimeoutExpired:
        watcher.kill()
        watcher.wait()
