"""A command in a process of its own, which a signal strikes at a chosen event in a folder: no clock chooses where.

    python struck.py SIGNAL EVENT FOLDER COMMAND...

EVENT counts, from 1, what Python does to files below FOLDER: opening, renaming, linking, making and removing.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

EVENTS = ("open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")


def strike_at(number: int, folder: str, what: signal.Signals) -> None:
    """Send this process a signal as the ``number``-th event below ``folder`` begins."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in EVENTS and any(isinstance(one, str) and one.startswith(folder) for one in map(_path, arguments)):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), what)

    sys.addaudithook(hook)


def _path(argument: Any) -> Any:
    return os.fspath(argument) if isinstance(argument, os.PathLike) else argument


def main() -> None:
    """Run the command."""
    number, event, folder = sys.argv[1:4]
    sys.argv = ["balcony-edge", *sys.argv[4:]]
    from balcony_edge.__main__ import main as command

    strike_at(int(event), folder, signal.Signals(int(number)))
    command()


if __name__ == "__main__":
    main()
