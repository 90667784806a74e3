"""Small C libraries, built where they are needed, and Python in a process that has them."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOURCES = Path(__file__).resolve().parents[1] / "telemetry" / "native"


def build(source: str, library: Path, *flags: str) -> Path:
    """Compile one C file to a shared library; the test skips where no compiler makes what this Python can load."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) here")
    target = subprocess.run([compiler, "-dumpmachine"], capture_output=True, text=True, check=False).stdout
    if target[:3] != platform.machine()[:3]:
        pytest.skip(f"cc compiles for {target.strip()}, and this Python runs on {platform.machine()}")
    library.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-shared", "-fPIC", "-O1", *flags, "-o", str(library), str(SOURCES / source), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        # Said as an error: a test that cannot be built has not passed.
        raise RuntimeError(done.stderr)
    return library


def python(code: str, *arguments: str, before: list[str] | None = None, **environment: str) -> Any:
    """The JSON document that ``code`` prints last, in a process of its own with this environment on top."""
    paths = os.pathsep.join(path for path in sys.path if path)
    result = subprocess.run(
        [*(before or []), sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])
