"""A program that sets clocks and does not put them back: ``python setter.py ROOT KIND SETTING HOW``.

HOW: ``wait`` for its end after it has set; ``middle``: wait after the first write of several; ``fork``: wait, and so
does a fork of it; ``leave``: end without putting back. It prints the watcher's process, then that of a fork.
"""

from __future__ import annotations

import os
import signal
import sys

from balcony_edge.clocks.device import write_file
from balcony_edge.clocks.find import find_knobs
from balcony_edge.clocks.switch import ClockSwitch
from balcony_edge.telemetry.readers.sysfs import Sysfs


def main() -> None:
    """Run it."""
    root, kind, clock, how = sys.argv[1:5]
    sysfs = Sysfs(root)
    knobs = {knob.kind: knob for knob in find_knobs(sysfs, ("MAXN_SUPER", "25W", "15W", "7W"), gpu=True)}

    def write(path: str, content: bytes) -> None:
        write_file(path, content)
        if how == "middle":
            tell_and_wait()

    def tell_and_wait() -> None:
        guard = switch._guard
        assert guard is not None
        fork = os.fork() if how == "fork" else None
        if fork != 0:
            print(guard._watcher.pid, fork or "", flush=True)
        while how != "leave":
            signal.pause()

    switch = ClockSwitch(knobs[kind], sysfs, write=write)
    switch.set(clock)
    tell_and_wait()


if __name__ == "__main__":
    main()
