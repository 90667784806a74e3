"""Reads small kernel files: never more than a few bytes, without blocking, and without raising."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from typing import NamedTuple

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")

ReadFile = Callable[[str, int], bytes]
"""``(path, size) -> bytes``: at most ``size`` bytes of a file, or an OSError."""


class Text(NamedTuple):
    """A file's text without surrounding blanks and NULs, or ``None`` with the reason."""

    value: str | None
    reason: str = ""


class Number(NamedTuple):
    """The integer in a file, or ``None`` with the reason."""

    value: int | None
    reason: str = ""


def read_file(path: str, size: int) -> bytes:
    """At most ``size`` bytes from the start of ``path``.

    It uses ``os.pread`` because a power-gated sensor answers EAGAIN, which Python's buffered files turn into a
    TypeError. With O_NONBLOCK a FIFO without a writer does not block.

    Raises:
        OSError: whatever the kernel answers; for EAGAIN it is a BlockingIOError.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        return os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)


class Sysfs:
    """The files below ``root``: ``/`` on a device, a folder of fixtures in a test. ``read`` reads one file."""

    def __init__(self, root: str | os.PathLike[str] = "/", read: ReadFile = read_file) -> None:
        self._root = os.fspath(root).rstrip("/")
        self._read = read

    def path(self, path: str) -> str:
        """``path`` (with or without a leading slash) below the root."""
        return f"{self._root}/{path.lstrip('/')}"

    def whole(self, path: str) -> str:
        """The text of a file of less than 64 KiB, as it is. Raises OSError if it cannot be read."""
        return self._read(self.path(path), 1 << 16).decode("utf-8", "replace")

    def text(self, path: str, size: int = 64) -> Text:
        """The text of a file of fewer than ``size`` bytes. An empty or a longer file has none."""
        try:
            raw = self._read(self.path(path), size)
        except OSError as error:
            return Text(None, f"/{path.lstrip('/')}: {_explain(error)}")
        if len(raw) >= size:
            return Text(None, f"/{path.lstrip('/')}: longer than {size - 1} bytes")
        text = raw.decode("utf-8", "replace").strip("\0 \t\r\n")
        return Text(text) if text else Text(None, f"/{path.lstrip('/')}: empty")

    def number(self, path: str) -> Number:
        """The integer in a file that holds nothing else."""
        text = self.text(path)
        if text.value is None:
            return Number(None, text.reason)
        if not _INTEGER.fullmatch(text.value):
            return Number(None, f"/{path.lstrip('/')}: not an integer")
        return Number(int(text.value))

    def entries(self, path: str) -> tuple[str, ...]:
        """The names in a folder, sorted; empty if there is no such folder or it cannot be read."""
        try:
            with os.scandir(self.path(path)) as entries:
                return tuple(sorted(entry.name for entry in entries))
        except OSError:
            return ()


def _explain(error: OSError) -> str:
    if error.errno is None:
        return type(error).__name__
    name = errno.errorcode.get(error.errno, f"errno {error.errno}")
    return f"{name} ({os.strerror(error.errno)})"
