"""A bundle's folder, written whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from balcony_edge.bundle import MANIFEST_NAME
from balcony_edge.errors import BundleError


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` to write into; it becomes ``out`` when the block ends, or vanishes.

    A bundle or an empty folder at ``out`` is replaced only then; anything else there raises BundleError at once.
    """
    # Of a link the target is replaced: a rename would put the folder in the link's place.
    out = out.expanduser().resolve()
    if out.exists() and not (out / MANIFEST_NAME).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out} exists and is no bundle", "choose another folder, or empty this one")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise BundleError(f"cannot write to {out.parent}: {error.strerror}", "choose another folder") from error
    try:
        yield work
        work.chmod(0o755)
        _put(work, out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _put(work: Path, out: Path) -> None:
    """Rename ``work`` to ``out``; what was there is deleted last, and comes back if the rename fails."""
    if not out.exists():
        work.replace(out)
        return
    aside = work.with_name(f"{work.name}.old")
    out.replace(aside)
    try:
        work.replace(out)
    except BaseException:
        aside.replace(out)
        raise
    shutil.rmtree(aside)
