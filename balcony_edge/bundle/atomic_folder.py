"""A folder written whole or not at all, also when the writer is killed; the next run cleans up and starts afresh.

Beside the target ``out``: ``.out.partial`` is being written, ``.out.previous`` is the folder that it replaces, and
``.out.lock`` is held by whoever writes. The target itself only ever changes by renames.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from balcony_edge.bundle.manifest import MANIFEST_NAME
from balcony_edge.errors import BundleError, ModelError

ELSEWHERE = "choose another folder"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """An empty folder that becomes ``out`` when the block ends well; after an error nothing of it stays.

    A bundle at ``out`` stands until then, and comes back if a killed run had moved it aside. Raises BundleError if
    ``out`` holds anything but a bundle, if another process is writing it or the disk refuses.
    """
    # Through links: the bundle is replaced where it lies, on the same file system.
    out = out.expanduser().resolve()
    work, previous = (out.with_name(f".{out.name}.{what}") for what in ("partial", "previous"))
    made = [folder for folder in out.parents if not folder.exists()]
    done = False
    try:
        _check_replaceable(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        with _locked(out.with_name(f".{out.name}.lock"), out):
            _clean_up(out, work, previous)
            try:
                work.mkdir()
                yield work
                _sync(work)
                _check_replaceable(out)
                _swap(work, out, previous)
                done = True
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise _explained(error, out) from error
    finally:
        if not done:
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()


def _check_replaceable(out: Path) -> None:
    if out.is_dir() and not (out / MANIFEST_NAME).is_file() and any(out.iterdir()):
        raise BundleError(f"{out} exists and is no bundle", f"{ELSEWHERE}, or empty this one")
    if out.exists() and not out.is_dir():
        raise BundleError(f"{out} exists and is no folder", ELSEWHERE)


@contextmanager
def _locked(path: Path, out: Path) -> Iterator[None]:
    """Hold the lock file ``path``, which goes with its holder: the kernel frees it when that process dies."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise BundleError(
                f"another process is writing {out} at this moment", f"wait for it to end, or {ELSEWHERE}"
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        # A holder deletes the file as it leaves: a lock on a deleted file guards nothing.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            break
        os.close(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _clean_up(out: Path, work: Path, previous: Path) -> None:
    """What a killed run left: its unfinished folder goes, and a bundle that it had moved aside comes back."""
    if previous.exists() and not out.exists():
        previous.rename(out)
    for leftover in (work, previous):
        if leftover.exists():
            shutil.rmtree(leftover)


def _swap(work: Path, out: Path, previous: Path) -> None:
    """Put ``work`` in the place of ``out``; a failure puts the old one back."""
    if out.exists():
        out.rename(previous)
    try:
        work.rename(out)
    except BaseException:
        if previous.exists():
            previous.rename(out)
        raise
    _sync_one(out.parent)
    # The new one stands: what cannot be removed now is the next run's business.
    shutil.rmtree(previous, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Bytes on the disk before the rename: a power cut must not leave a whole name with half its contents."""
    for path in sorted(folder.rglob("*")):
        _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: OSError, out: Path) -> ModelError | BundleError:
    """An error of the system in words; which file it was about says whether reading or writing failed."""
    reason = error.strerror or str(error)
    what = f"cannot write the bundle {out}: {reason}"
    # First: a copy that runs out of space names the file that it copies from.
    if error.errno in NO_SPACE:
        return BundleError(what, f"free some space, or {ELSEWHERE}")
    if isinstance(error.filename, str) and not _is_output(Path(error.filename).absolute(), out):
        return ModelError(f"cannot read {error.filename}: {reason}", "check the file and its permissions")
    if error.errno in NO_PERMISSION:
        return BundleError(what, f"change the permissions of {out.parent}, or {ELSEWHERE}")
    return BundleError(what, f"check the disk, or {ELSEWHERE}")


def _is_output(path: Path, out: Path) -> bool:
    """Whether ``path`` is the target, a folder that leads to it, or one of the names beside it."""
    if out.is_relative_to(path) or path.is_relative_to(out):
        return True
    return path.is_relative_to(out.parent) and path.relative_to(out.parent).parts[0].startswith(f".{out.name}.")
