"""The one way in which small kernel files are read: bounded, non-blocking, and never raising."""

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
    """A file's text without surrounding blanks and NULs, or ``None`` and why."""

    value: str | None
    reason: str = ""


class Number(NamedTuple):
    """A file's integer, or ``None`` and why."""

    value: int | None
    reason: str = ""


def read_file(path: str, size: int) -> bytes:
    """At most ``size`` bytes from the start of ``path``.

    ``os.pread`` and not ``open().read()``: a power-gated sensor answers EAGAIN, which Python's buffered files
    turn into a TypeError. O_NONBLOCK keeps a FIFO without a writer from hanging the caller.

    Raises:
        OSError: whatever the kernel answers; EAGAIN is its subclass BlockingIOError.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        return os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)


class Sysfs:
    """Files below ``root`` (``/`` on a device, a folder of fixtures in a test), read through ``read``."""

    def __init__(self, root: str | os.PathLike[str] = "/", read: ReadFile = read_file) -> None:
        self._root = os.fspath(root).rstrip("/")
        self._read = read

    def path(self, path: str) -> str:
        """``path`` (with or without a leading slash) below the root."""
        return f"{self._root}/{path.lstrip('/')}"

    def text(self, path: str, size: int = 64) -> Text:
        """The text of a file of fewer than ``size`` bytes. Never raises; an empty file is a failure."""
        try:
            raw = self._read(self.path(path), size)
        except OSError as error:
            return Text(None, f"/{path.lstrip('/')}: {_explain(error)}")
        if len(raw) >= size:
            return Text(None, f"/{path.lstrip('/')}: longer than {size - 1} bytes")
        text = raw.decode("utf-8", "replace").strip("\0 \t\r\n")
        return Text(text) if text else Text(None, f"/{path.lstrip('/')}: empty")

    def number(self, path: str) -> Number:
        """The decimal integer that is all a file holds. Never raises."""
        text = self.text(path)
        if text.value is None:
            return Number(None, text.reason)
        if not _INTEGER.fullmatch(text.value):
            return Number(None, f"/{path.lstrip('/')}: not an integer")
        return Number(int(text.value))

    def entries(self, path: str) -> tuple[str, ...]:
        """The sorted names in a folder; empty when it is absent or unreadable."""
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
