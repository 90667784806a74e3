"""The console script, in a process of its own or in this one."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from balcony_edge.cli import app


def cli(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the console script's function in a process of its own.

    Its clock is the machine's, so it keeps its profiles apart from those of this process, which are steady.
    """
    paths = os.pathsep.join(path for path in sys.path if path)
    cache = str(Path(os.environ["BALCONY_CACHE_DIR"]) / "of-children")
    return subprocess.run(
        [sys.executable, "-c", "from balcony_edge.__main__ import main; main()", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env=os.environ | {"PYTHONPATH": paths, "BALCONY_CACHE_DIR": cache} | environment,
    )


def here(*arguments: str, stdin: str | bytes = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The same in this process: no seconds of imports, and patches of the test hold."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["balcony-edge", *arguments])
        given = stdin.encode() if isinstance(stdin, str) else stdin
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
        patch.setattr(app.app, "registered_commands", list(app.app.registered_commands))
        for name, value in environment.items():
            patch.setenv(name, value)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                app.main()
            except SystemExit as ended:
                code = int(ended.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


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
