"""A process that exports on command, in children that die where they are told: for the tests of killed exports.

One JSON order per line of stdin: model, out, splits, and ``kill_at`` (before that file-system event, from 1) or
``kill_after_s``, or neither; ``note_into`` names a file that gets the events' names. The child's wait status goes
back as one line. Forked, so that imports are paid once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from balcony_export.bundle_writer import export_bundle

ANYWHERE = ("os.remove", "os.rmdir")
NEAR = ("open", "os.rename", "os.mkdir", "os.listdir", "os.scandir", "shutil.rmtree")


class Events:
    """Notes events that touch ``folder`` from now on, and kills this process as number ``fatal`` begins."""

    def __init__(self, folder: str, fatal: int | None) -> None:
        self.seen: list[str] = []
        self._folder = folder
        self._fatal = fatal
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        # Deletions inside a folder name their files relative to it.
        if event in ANYWHERE or (event in NEAR and str(arguments[0]).startswith(self._folder)):
            self.seen.append(event)
            if len(self.seen) == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)


def child(order: dict[str, Any]) -> None:
    """Export, then end without the interpreter's own farewells."""
    out = Path(order["out"])
    events = Events(str(out.parent), order.get("kill_at"))
    try:
        export_bundle(Path(order["model"]), out, model="m", exits="init", splits=order["splits"])
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    if "note_into" in order:
        Path(order["note_into"]).write_text(json.dumps(events.seen))
    os._exit(0)


def main() -> None:
    """Serve orders until stdin ends."""
    warm = False
    for line in sys.stdin:
        order = json.loads(line)
        if not warm:
            # An export imports much at its late steps: once here, instead of seconds in every child.
            with tempfile.TemporaryDirectory() as place:
                export_bundle(Path(order["model"]), Path(place) / "b", model="m", splits=order["splits"], exits="init")
            warm = True
        process = os.fork()
        if process == 0:
            child(order)
        if "kill_after_s" in order:
            time.sleep(order["kill_after_s"])
            os.kill(process, signal.SIGKILL)
        print(os.waitpid(process, 0)[1], flush=True)


if __name__ == "__main__":
    main()
