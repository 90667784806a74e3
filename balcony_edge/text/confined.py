"""A child process with limits of time and memory, for what a stranger's files make the computer do.

A template is a program, and a tokenizer's patterns can be traps: they may run for hours, fill the memory, or end the
process in native code. So that happens to a child (see confined_work.py), which is asked over pipes. It limits itself,
so it ends even if its parent was killed.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import Any

from balcony_edge.system import child
from balcony_edge.system.child import UnavailableError

START_LIMIT_S = 30.0
# What a child may answer, in bytes, and how long the parent waits beyond the limit that the child has set itself.
MOST_ANSWER = 64 << 20
SPARE_S = 1.0


class ConfinedError(Exception):
    """The child did not answer. The text says why, in words."""


class Confined:
    """A child that works for this process, one request at a time; started when it is first asked.

    ``memory_bytes``: its address space. A child that fails is replaced when the next request comes.
    """

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, limit_s: float, **request: Any) -> dict[str, Any]:
        """The child's answer to a request (a function of confined_work.py and its arguments, as JSON).

        Raises ConfinedError if there is none within ``limit_s`` seconds, UnavailableError if no child can be started,
        TypeError or ValueError for a request that JSON does not have.
        """
        line = json.dumps({**request, "limit_s": limit_s}).encode() + b"\n"
        with self._lock:
            process = self._started()
            try:
                answer: dict[str, Any] = json.loads(_talk(process, line, limit_s + SPARE_S))
                return answer
            except (OSError, ValueError, EOFError, TimeoutError) as error:
                self._end()
                raise ConfinedError(_why(process.returncode, limit_s, error)) from error
            except BaseException:
                self._end()  # its answer would be the next request's
                raise

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        # After a fork the pipes belong to the parent.
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        if self._owner == os.getpid():
            self._end()
        process = child.start(
            "balcony_edge.text.confined_work",
            str(self._memory_bytes),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"TOKENIZERS_PARALLELISM": "false"},
            start_new_session=True,  # Ctrl-C is the parent's
            bufsize=0,
        )
        self._process, self._owner = process, os.getpid()
        try:
            _talk(process, b"", START_LIMIT_S)
        except (OSError, EOFError, TimeoutError) as error:
            self._end()
            raise UnavailableError("a child process does not start") from error
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            with suppress(OSError):
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()


def _talk(process: subprocess.Popen[bytes], line: bytes, limit_s: float) -> bytes:
    """Write a line and read one. Raises TimeoutError, EOFError, OSError, or ValueError for an answer without end."""
    assert process.stdin is not None
    assert process.stdout is not None
    into, out = process.stdin.fileno(), process.stdout.fileno()
    os.set_blocking(into, False)
    limit = time.monotonic() + limit_s
    poll = select.poll()
    poll.register(out, select.POLLIN)
    if line:
        poll.register(into, select.POLLOUT)
    found: list[bytes] = []
    size = 0
    while True:
        ready = dict(poll.poll(max(0.0, limit - time.monotonic()) * 1e3))
        if not ready:
            raise TimeoutError
        if into in ready:
            line = line[os.write(into, line[: 1 << 16]) :]
            if not line:
                poll.unregister(into)
        if out in ready:
            piece = os.read(out, 1 << 16)
            if not piece:
                raise EOFError
            found.append(piece)
            size += len(piece)
            if piece.endswith(b"\n"):
                return b"".join(found)
            if size > MOST_ANSWER:
                raise ValueError("an answer without end")


def _why(code: int | None, limit_s: float, error: BaseException) -> str:
    if isinstance(error, TimeoutError) or code == -signal.SIGALRM:
        return f"it takes more than {limit_s:.0f} s"
    if isinstance(error, ValueError):
        return "what it makes is too long"
    return "it needs too much memory, or breaks a library: its process was ended"


templates = Confined(768 << 20)
"""The child in which chat templates run. Its memory: Python, Jinja, and some hundred megabytes of text."""

atexit.register(templates.close)
