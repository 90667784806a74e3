"""A small process beside the one that sets clocks: it puts them back when that one has ended, in whatever way.

The other's end shows by its pipe to here, which closes; or, where a fork of it keeps the pipe open, by its number.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from pathlib import Path

from balcony_edge.clocks.device import Device
from balcony_edge.clocks.journal import Journal, put_back, unlock
from balcony_edge.telemetry.readers.sysfs import Sysfs

_LOOK_S = 1.0


def main() -> None:
    """Arguments: the root of the device, the journal's folder, the other's pid, the descriptor that holds the lock."""
    # Who ends a whole service or session at once, ends the other one too: then there is work to do.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    root, folder, parent, lock = sys.argv[1:5]
    with contextlib.suppress(BrokenPipeError):
        os.write(1, b"\n")
    while os.getppid() == int(parent) and not select.select([0], [], [], _LOOK_S)[0]:
        pass
    journal = Journal(Path(folder))
    entry = journal.read()
    if entry is not None and entry.pid == int(parent):
        put_back(journal, Device(Sysfs(root)))
    unlock(int(lock))


if __name__ == "__main__":
    main()
