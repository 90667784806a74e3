"""Child processes that run this very Python: modules that may crash, hang or be attacked, and pip.

Not as ``python -m MODULE``: that looks for modules in the working directory first, and in the folder of a stranger's
bundle may lie a ``json.py``. Python has an option against it (``-P``) from 3.11 on only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Only `import sys` comes before the working directory (an empty entry) is gone, and sys is no file.
_RUN = (
    "import sys; sys.path[:] = filter(None, sys.path); import runpy; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
_SAFE_PATH = "PYTHONSAFEPATH"


class UnavailableError(Exception):
    """No child process can be started here; the text says why."""


@contextmanager
def processes() -> Iterator[None]:
    """A block in which multiprocessing may start this Python, which it does without ``start``.

    From Python 3.11 on, that leaves the working directory alone too. Raises UnavailableError where no child starts.
    """
    with start("keyword", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        pass
    if first.returncode:
        raise UnavailableError(f"a child process ends with {first.returncode}")
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


def start(module: str, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
    """Start a module as a program, with ``subprocess.Popen``'s options. It finds the packages that this process finds.

    Raises UnavailableError where that cannot be done: this Python is part of a frozen program, it is emulated, or the
    system starts no more processes.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        raise UnavailableError("this Python does not know its own executable")
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, **options.pop("env", {}), "PYTHONPATH": paths}
    command = [sys.executable, "-c", _RUN, module, *arguments]
    try:
        return subprocess.Popen(command, env=environment, **options)
    except OSError as error:
        raise UnavailableError(error.strerror or str(error)) from error
