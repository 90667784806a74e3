"""The journal: a file that says how to put all clocks back, on disk before one is changed; and the lock beside it.

Whoever holds the lock sets clocks. A journal whose lock nobody holds was left by a process that was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import NamedTuple

from balcony_edge.clocks.change import Change, ModeChange, from_json
from balcony_edge.clocks.device import Device, in_force
from balcony_edge.errors import ClockError
from balcony_edge.files import values
from balcony_edge.files.reading import Reader, parse_json
from balcony_edge.files.sealed import sealed, unsealed
from balcony_edge.files.writing import whole_file
from balcony_edge.telemetry.readers.sysfs import Sysfs

_BOOT_ID = "proc/sys/kernel/random/boot_id"
_READER = Reader(
    "the journal of clocks",
    ClockError,
    "remove it and reboot: clocks then start as usual; a power mode is put back by `sudo nvpmodel -m NUMBER`",
    most_bytes=1 << 16,
    pipes=False,
)


class Entry(NamedTuple):
    """``undo`` puts back what the process ``pid`` changed, since the start of the system that ``boot`` names."""

    boot: str
    pid: int
    undo: list[Change]


class Journal:
    """The journal in a folder, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "clocks.json"
        self._lock = folder / "clocks.lock"

    def try_lock(self) -> int | None:
        """Take the lock: the descriptor that holds it, also for children that inherit it. None: somebody has it.

        Raises ClockError if there can be no lock.
        """
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self._lock, flags, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            except BaseException:
                os.close(descriptor)
                raise
        except BlockingIOError:
            return None
        except OSError as error:
            raise _unusable(self._lock, error) from error
        return descriptor

    def holder(self) -> str:
        """The process that took the lock last, for people: "process 4711"."""
        try:
            return f"process {int(self._lock.read_bytes()[:16])}"
        except (OSError, ValueError):
            return "another process"

    def read(self) -> Entry | None:
        """What the journal says; None without one. Raises ClockError for any other file than one that was written."""
        if not os.path.lexists(self.path):
            return None
        text = _READER.text(self.path)
        with _READER.explained(self.path):
            content = parse_json(unsealed(text))
            undo = [from_json(change) for change in values.listed(content["undo"], "undo")]
            return Entry(values.text(content["boot"], "boot"), values.whole(content["pid"], "pid", 1), undo)

    def write(self, entry: Entry) -> None:
        """Write the journal, and wait until it is on the disk. Raises ClockError."""
        line = json.dumps({"boot": entry.boot, "pid": entry.pid, "undo": [list(change) for change in entry.undo]})
        try:
            with whole_file(self.path) as partial, partial.open("wb") as file:
                file.write(sealed(line).encode())
                file.flush()
                os.fsync(file.fileno())
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise _unusable(self.path, error) from error

    def remove(self) -> None:
        """Remove the journal, if there is one. Raises ClockError."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise _unusable(self.path, error) from error


def unlock(descriptor: int) -> None:
    """Give the lock back, also where other processes have inherited it."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def boot_id(sysfs: Sysfs) -> str:
    """The kernel's name for this start of the system; empty if it tells none."""
    return sysfs.text(_BOOT_ID).value or ""


def put_back(journal: Journal, device: Device) -> str | None:
    """Do what the journal says, and remove it: what was done, for people; None if nothing was. The lock must be held.

    A new start of the system has its clocks as usual, but a power mode survives it. Raises ClockError; the journal then
    stays, for another try.
    """
    entry = journal.read()
    if entry is None:
        return None
    undo = entry.undo
    if entry.boot != boot_id(device.sysfs):
        undo = [one for one in undo if isinstance(one, ModeChange) and not in_force(device.sysfs, one)]
    made = device.put_back(undo)
    journal.remove()
    if not made:
        return None
    return f"put back what process {entry.pid} had set and left: {', '.join(str(change) for change in made)}"


def _unusable(path: Path, error: OSError) -> ClockError:
    return ClockError(
        f"without {path} no clock is set, since a killed process could not be undone: {error.strerror or error}",
        "see that this user may write there, or set BALCONY_STATE_DIR=FOLDER",
    )
