"""The one rule for files that are written: an output is a plain file, there already or not, and replaced as a whole.

What exists and is something else (a folder, a device, a pipe, a socket) is refused and stays as it is. A link is
followed: the file that it names is written, and the link stays. Folders on the way are made.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from balcony_edge.errors import BalconyError
from balcony_edge.files.reading import kind_of


def target(path: Path) -> Path:
    """The file that an output will be, behind all links. Raises OSError if something else is there."""
    try:
        found = path.expanduser().resolve()
    except RuntimeError as error:  # links in a circle, before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error
    try:
        kind = kind_of(found.stat().st_mode)
    except FileNotFoundError:
        return found
    if kind != "a file":
        raise OSError(errno.EINVAL, f"it is {kind}, and only plain files are written", str(path))
    return found


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place beside ``path`` that becomes it when the block ends without an error; else nothing is left.

    Two writers of one file at a time: the second is refused. What a killed writer left, the next one overwrites.
    Raises OSError.
    """
    final = target(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}.partial{final.suffix}")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        if (kind := kind_of(os.fstat(descriptor).st_mode)) != "a file":
            raise OSError(errno.EINVAL, f"it is {kind}", str(partial))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(errno.EBUSY, "another process is writing it", str(path)) from error
        os.ftruncate(descriptor, 0)
        try:
            yield partial
            partial.replace(final)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
    finally:
        os.close(descriptor)


@contextmanager
def unnamed_file(path: Path) -> Iterator[Path]:
    """As ``whole_file``, but what a killed writer has written vanishes with it, where the system can do that.

    For large files. The place to write to has no name that tells its format. Raises OSError.
    """
    final = target(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(final.parent, getattr(os, "O_TMPFILE", 0) | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError:  # not this kind of disk; without O_TMPFILE a folder cannot be opened so either
        with whole_file(path) as partial:
            yield partial
        return
    try:
        place = Path(f"/proc/self/fd/{descriptor}")
        yield place
        named = final.with_name(f".{final.name}.partial{final.suffix}")
        named.unlink(missing_ok=True)
        # Only with a folder's descriptor does Python follow the link that stands for the file.
        os.link(place, named, src_dir_fd=descriptor, follow_symlinks=True)
        named.replace(final)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises OSError."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def open_lines(path: Path, new: bool = False) -> TextIO:
    """A text file that is written line by line, each at once. ``new``: it must not exist. Raises OSError."""
    if new and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    final = target(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_EXCL if new else os.O_TRUNC)
    return os.fdopen(os.open(final, flags, 0o666), "w", encoding="utf-8", buffering=1)


def require(path: Path, error: type[BalconyError], hint: str) -> None:
    """Raise ``error`` if an output cannot be written there by the rule. Call it before any long work."""
    try:
        target(path)
    except OSError as reason:
        raise error(f"cannot write {path}: {reason.strerror or reason}", hint) from reason
