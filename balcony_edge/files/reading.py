"""Reads files that may come from anybody: plain ones or pipes, bounded in size, depth and time, with explained errors.

A ``Reader`` knows what a kind of file is called and which error is raised for it. Whatever is wrong with a file,
becomes that error: a folder, a device, an endless file, broken text, JSON that nests too deeply.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import select
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from balcony_edge.errors import BalconyError

# How deep JSON may nest, the largest number in it, and how long a pipe may be silent.
MOST_LEVELS = 64
LARGEST = 1 << 63
PIPE_LIMIT_S = 8.0
_PIECE = 1 << 20
# What Python raises for a value of the wrong type or size, wherever it is looked into.
UNFITTING = (
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Reader:
    """Reads one kind of file.

    ``what``: what messages call the file ("the load trace"). ``error``: what is raised, with ``hint``. ``most_bytes``:
    the largest file. ``pipes``: whether a pipe will do (a shell's ``<(command)``).
    """

    what: str
    error: type[BalconyError]
    hint: str
    most_bytes: int = 64 << 20
    pipes: bool = True

    def content(self, path: Path) -> bytes:
        """The content of a file. Raises the reader's error."""
        try:
            return read_bytes(path, self.most_bytes, self.pipes)
        except (OSError, ValueError) as error:
            raise self.failed(path, error) from error

    def text(self, path: Path) -> str:
        """A file's text in UTF-8. Raises the reader's error."""
        content = self.content(path)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.failed(path, error) from error

    def unpacked(self, path: Path) -> bytes:
        """The content of a file in gzip's format, which may not be longer than ``most_bytes`` either."""
        content = self.content(path)
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
                found = stream.read(self.most_bytes + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise self.failed(path, error) from error
        if len(found) > self.most_bytes:
            raise self.failed(path, f"it unpacks to more than {self.most_bytes} bytes")
        return found

    def json(self, path: Path) -> Any:
        """The JSON document in a file, see ``parse_json``. Raises the reader's error."""
        with self.explained(path):
            return parse_json(self.text(path))

    def object(self, path: Path, any_numbers: bool = False) -> dict[str, Any]:
        """The JSON object in a file, see ``parse_json``. Raises the reader's error."""
        with self.explained(path):
            found = parse_json(self.text(path), any_numbers)
        if not isinstance(found, dict):
            raise self.failed(path, "it holds no JSON object")
        return found

    @contextmanager
    def explained(self, path: Path) -> Iterator[None]:
        """Turn what Python raises where a value does not fit into the reader's error."""
        try:
            yield
        except UNFITTING as error:
            raise self.failed(path, error) from error

    def failed(self, path: Path, reason: BaseException | str) -> BalconyError:
        """The reader's error for a file."""
        return self.error(f"cannot read {self.what} {path}: {_reason(reason)}", self.hint)


def read_bytes(path: Path, most_bytes: int, pipes: bool = True) -> bytes:
    """The content of a plain file, or of a pipe that somebody writes to.

    Raises OSError as the system does, and ValueError for a folder, a device, or more than ``most_bytes``.
    """
    # Without O_NONBLOCK, opening a pipe waits for somebody who writes.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        kind = kind_of(found.st_mode)
        if kind != "a file" and not (pipes and kind == "a pipe"):
            raise ValueError(f"it is {kind}, no plain file")
        if found.st_size > most_bytes:
            raise ValueError(f"it has {found.st_size} bytes; {most_bytes} are the most")
        return _piped(descriptor, most_bytes) if kind == "a pipe" else _read(descriptor, most_bytes)
    finally:
        os.close(descriptor)


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path in a folder leads out of it, by links; links in a circle do."""
    try:
        return not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        return True


def kind_of(mode: int) -> str:
    """What a file's mode says it is, in words."""
    kinds = {
        stat.S_IFREG: "a file",
        stat.S_IFIFO: "a pipe",
        stat.S_IFDIR: "a folder",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def _read(descriptor: int, most_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    # Some of the kernel's files say that they have no bytes and never end.
    while piece := os.read(descriptor, _PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > most_bytes:
            raise ValueError(f"it has more than {most_bytes} bytes")
    return b"".join(pieces)


def _piped(descriptor: int, most_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    limit = time.monotonic() + PIPE_LIMIT_S
    while True:
        if not poll.poll(max(0.0, limit - time.monotonic()) * 1e3):
            raise ValueError(f"it is a pipe, and nobody wrote to it for {PIPE_LIMIT_S:.0f} s")
        piece = os.read(descriptor, _PIECE)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
        limit = time.monotonic() + PIPE_LIMIT_S
        if size > most_bytes:
            raise ValueError(f"it has more than {most_bytes} bytes")


def parse_json(text: str, any_numbers: bool = False) -> Any:
    """The document of a JSON text that nests at most MOST_LEVELS deep, with finite numbers of a sane size.

    ``any_numbers``: leave numbers unchecked, where a schema checks them or nobody reads them. Raises ValueError.
    """
    try:
        document = json.loads(text, parse_constant=None if any_numbers else _refuse)
    except RecursionError as error:
        raise ValueError(f"it nests more than {MOST_LEVELS} levels deep") from error
    level: list[Any] = [document]
    for _ in range(MOST_LEVELS + 1):
        if not level:
            return document
        inside: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inside += value.values()
            elif isinstance(value, list):
                inside += value
            elif not any_numbers and isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:
                raise ValueError("it holds a number that is infinite or too large")
        level = inside
    raise ValueError(f"it nests more than {MOST_LEVELS} levels deep")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}, which JSON does not have")


def _reason(reason: BaseException | str) -> str:
    """What went wrong, on one line of a sane length."""
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    if isinstance(reason, KeyError):
        return f"it lacks {reason}"
    text = " ".join(str(reason).split()) or type(reason).__name__
    return text if len(text) <= 300 else f"{text[:300]} …"
