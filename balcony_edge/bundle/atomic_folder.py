"""Writes a folder whole or not at all, even if the writer is killed. The next run cleans up what a killed one left.

Beside the target ``out`` lie ``.out.partial`` (being written), ``.out.previous`` (the folder that is replaced) and
``.out.lock`` (held by the writer). The target itself only changes by renames.
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
from balcony_edge.files.home import expand

ELSEWHERE = "choose another folder"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """An empty folder that becomes ``out`` when the block ends without an error; else it is deleted.

    A bundle at ``out`` stays until then. If a killed run had moved one aside, it is put back first.

    Raises:
        BundleError: ``out`` holds something other than a bundle, another process is writing it, or the disk refuses.
        ModelError: a file that the block reads cannot be read.
    """
    # Links are resolved: renames need the folder itself, on its own file system.
    out = expand(out).resolve()
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
    """Hold the lock file ``path``. The kernel frees the lock when its holder dies."""
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
        # The holder before may have deleted the file meanwhile, and a lock on a deleted file protects nothing.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            break
        os.close(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _clean_up(out: Path, work: Path, previous: Path) -> None:
    """Undo what a killed run left: put a bundle back that it had moved aside, and delete its unfinished folder."""
    if previous.exists() and not out.exists():
        previous.rename(out)
    for leftover in (work, previous):
        if leftover.exists():
            shutil.rmtree(leftover)


def _swap(work: Path, out: Path, previous: Path) -> None:
    """Replace ``out`` by ``work``. If that fails, the old folder is put back."""
    if out.exists():
        out.rename(previous)
    try:
        work.rename(out)
    except BaseException:
        if previous.exists():
            previous.rename(out)
        raise
    _sync_one(out.parent)
    # The new folder is in place. What cannot be deleted now, the next run deletes.
    shutil.rmtree(previous, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Write all bytes to the disk, so that a power cut after the rename cannot leave half-written files."""
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
    """A system error in words. The file that it names tells whether reading or writing failed."""
    reason = error.strerror or str(error)
    what = f"cannot write the bundle {out}: {reason}"
    # Before the name is looked at: a copy that runs out of space names the file that it copies from.
    if error.errno in NO_SPACE:
        return BundleError(what, f"free some space, or {ELSEWHERE}")
    if isinstance(error.filename, str) and not _is_output(Path(error.filename).absolute(), out):
        return ModelError(f"cannot read {error.filename}: {reason}", "check the file and its permissions")
    if error.errno in NO_PERMISSION:
        return BundleError(what, f"change the permissions of {out.parent}, or {ELSEWHERE}")
    return BundleError(what, f"check the disk, or {ELSEWHERE}")


def _is_output(path: Path, out: Path) -> bool:
    """Whether ``path`` is the target, a folder above or below it, or one of the working names beside it."""
    if out.is_relative_to(path) or path.is_relative_to(out):
        return True
    return path.is_relative_to(out.parent) and path.relative_to(out.parent).parts[0].startswith(f".{out.name}.")
