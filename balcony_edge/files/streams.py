"""The standard streams of a command: closed ones, full disks, readers that have gone, and terminals without Unicode."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Any, TextIO

from balcony_edge.errors import StreamError

HANDLER = "balcony-edge"
# Signs of this project's own messages, for terminals that do not have them.
SIGNS = ["->", "-", "-", "-", "...", "x", "-", "deg", "u", "~", ">=", "<=", "ok", "no"]
PLAIN = dict(zip("→–—−…×·°µ≈≥≤✓✗", SIGNS, strict=True))


class ReaderGoneError(Exception):
    """Whoever read stdout (a pager, head) has ended. It is no OSError: the command line's library would handle that."""


class _Stdout(io.FileIO):
    """Bytes to stdout. A failure is reported once; what comes after it goes nowhere, so that the process can end."""

    _failed = False

    def write(self, data: Any, /) -> int:
        """As FileIO. Raises StreamError or ReaderGoneError."""
        if self._failed:
            return len(data)
        try:
            return super().write(data) or 0
        except BlockingIOError:
            raise
        except OSError as error:
            self._failed = True
            if isinstance(error, BrokenPipeError):
                raise ReaderGoneError from error
            raise StreamError(
                f"cannot write to stdout: {error.strerror or error}", "make room, or send the output elsewhere"
            ) from error


class _Stderr(io.FileIO):
    """Bytes to stderr: figures and progress. What cannot be written is left out, since the answer matters more."""

    def write(self, data: Any, /) -> int:
        """As FileIO; never raises."""
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def prepare() -> None:
    """Make the standard streams of this process safe to use; call it once, before any other file is opened."""
    _fill_closed()
    codecs.register_error(HANDLER, _plain)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    # What somebody has put in their place stays.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _wrapped(_Stdout(1, "w", closefd=False), sys.__stdout__)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _wrapped(_Stderr(2, "w", closefd=False), sys.__stderr__)


def _wrapped(raw: io.FileIO, before: Any) -> TextIO:
    """The raw stream as text, with the settings of the stream before it."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", "utf-8"),
        errors=HANDLER,
        line_buffering=getattr(before, "line_buffering", True),
        write_through=getattr(before, "write_through", False),
    )


def finish() -> None:
    """Write what is still buffered. Raises as writing does."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _fill_closed() -> None:
    """Open /dev/null in the place of closed streams: else the next file would get their number, and be written into.

    stdin and stdout get it the wrong way round, so that reading and writing them fail as they do when closed.
    """
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != number:  # a lower one was closed while this ran
                os.dup2(opened, number)
                os.close(opened)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: what a terminal cannot show is written in other signs, or as a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end
