"""The console script in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def cli(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the console script's function in a process of its own.

    Its clock is the machine's, so it keeps its profiles apart from those of this process, which are steady.
    """
    paths = os.pathsep.join(path for path in sys.path if path)
    cache = str(Path(os.environ["BALCONY_CACHE_DIR"]) / "of-children")
    return subprocess.run(
        [sys.executable, "-c", "from balcony_edge.cli.app import main; main()", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"PYTHONPATH": paths, "BALCONY_CACHE_DIR": cache} | environment,
    )


def fails(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 1, one message with a next step, no traceback, nothing on stdout."""
    assert result.returncode == 1, result.stderr
    # The Hub's client may say something of its own before.
    message = result.stderr[result.stderr.index("balcony-edge: ") :]
    assert "→" in message
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    for word in words:
        assert word in message
