"""A process that exports on command, in children that die where they are told: for the tests of killed exports.

One JSON order per line of stdin: model, out, splits, and ``kill_at`` (before that file-system event, from 1) or
``kill_after_s``, or neither. The child's wait status goes back as one line. Forked, so that imports are paid once.
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

from balcony_export.bundling.writer import export_bundle

ANYWHERE = ("os.remove", "os.rmdir")
NEAR = ("open", "os.rename", "os.mkdir", "os.listdir", "os.scandir", "shutil.rmtree")


def die_before_event(number: int, folder: str) -> None:
    """Kill this process as the ``number``-th event that touches ``folder`` begins."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        # Deletions inside a folder name their files relative to it.
        if event in ANYWHERE or (event in NEAR and str(arguments[0]).startswith(folder)):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def child(order: dict[str, Any]) -> None:
    """Export, then end without the interpreter's own farewells."""
    out = Path(order["out"])
    if order.get("kill_at"):
        die_before_event(order["kill_at"], str(out.parent))
    try:
        export_bundle(Path(order["model"]), out, model="m", exits="init", splits=order["splits"])
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
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
