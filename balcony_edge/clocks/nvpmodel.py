"""Runs NVIDIA's nvpmodel, which changes a Jetson's power mode. It never reboots the device."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from balcony_edge.errors import ClockError

TIMEOUT_S = 20.0
_MOST_SAID = 4096


def set_mode(mode: int, timeout_s: float = TIMEOUT_S) -> None:
    """Change the power mode. Raises ClockError if nvpmodel is missing, fails, asks for a reboot, or takes too long."""
    program = shutil.which("nvpmodel")
    if program is None:
        raise ClockError("there is no nvpmodel to change the power mode with", "add its folder to PATH: /usr/sbin")
    # Output goes to a file, since a child of a killed nvpmodel could keep a pipe open.
    try:
        with tempfile.TemporaryFile() as output, _alone(program, timeout_s) as lock:
            status = _run([program, "-m", str(mode)], output.fileno(), lock, timeout_s)
            output.seek(0)
            said = output.read(_MOST_SAID).decode("utf-8", "replace").strip()
    except OSError as error:
        raise ClockError(f"cannot run {program}: {error.strerror or error}", "run with sudo") from error
    if status is None:
        raise ClockError(f"nvpmodel -m {mode} did not end within {timeout_s:g} s", f"try: sudo nvpmodel -m {mode}")
    if status:
        last = said.rpartition("\n")[2] or f"it ended with {status}"
        if "reboot" in said.lower():
            raise ClockError(f"power mode {mode} needs a reboot: {last}", "leave that mode out of those to choose from")
        raise ClockError(f"nvpmodel -m {mode} failed: {last}", "only root may change the power mode: run with sudo")


@contextmanager
def _alone(program: str, timeout_s: float) -> Iterator[int]:
    """Wait for the end of an earlier run, whose starter may have been killed; the run inherits the descriptor."""
    limit = time.monotonic() + timeout_s
    descriptor = os.open(program, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > limit:
                    raise ClockError(f"nvpmodel has been running for {timeout_s:g} s", "end it") from error
                time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)


def _run(command: list[str], output: int, lock: int, timeout_s: float) -> int | None:
    """The exit status; None if it took too long."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,  # to a question about a reboot, its end answers no
        stdout=output,
        stderr=output,
        start_new_session=True,
        pass_fds=(lock,),
    )
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
