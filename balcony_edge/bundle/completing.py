"""Completes a thin bundle: its weights file is made again from the user's own copy of the base.

How weights are read and rounded, the workstation's side knows. It offers one function as an entry point of the group
``balcony_edge.completers``, so that this side need not import it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from balcony_edge.bundle.atomic_folder import whole_folder
from balcony_edge.bundle.folder import Bundle, ThinBundle
from balcony_edge.bundle.manifest import CARD_NAME, CARRIED_NAME, MANIFEST_NAME, WEIGHTS_NAME, Manifest, file_entry
from balcony_edge.bundle.thin import missing_base, without_note
from balcony_edge.errors import BundleError
from balcony_edge.files.cache import needed_cache_folder

GROUP = "balcony_edge.completers"

# Writes the weights file into a folder that holds the rest of a thin bundle.
WriteWeights = Callable[[Path], None]


def find_base(manifest: Manifest, base: str, offline: bool = False) -> WriteWeights:
    """What makes the weights file from ``base``: a model folder, a GGUF file or a Hub id. Nothing is written yet.

    Raises:
        ModelError: the base cannot be read, or is another than the bundle's.
        BundleError: the bundle cannot be completed by this version, or this installation cannot do it.
    """
    found = list(metadata.entry_points(group=GROUP))
    try:
        prepare = found[0].load()
    except (ImportError, IndexError) as error:
        raise BundleError(
            f"completing a thin bundle needs packages that are not installed ({error})",
            "run pip install 'balcony-edge[export]', or complete it on a machine that has them",
        ) from error
    write: WriteWeights = prepare(manifest, base, offline)
    return write


def finish(work: Path, manifest: Manifest, write: WriteWeights) -> None:
    """Make the thin bundle in ``work`` the whole one of ``manifest``, with the base that ``find_base`` has found.

    Raises BundleError if the thin bundle is another, or the weights do not become the ones that the manifest tells of.
    """
    thin = ThinBundle(work)
    if thin.manifest != manifest:
        raise BundleError("the thin bundle was changed while it was read", "try again")
    write(work)
    if file_entry(work / WEIGHTS_NAME) != manifest.files[WEIGHTS_NAME]:
        raise BundleError(
            f"the base is the right one, but {WEIGHTS_NAME} came out other than its author's: some values were rounded "
            "otherwise. No bundle was made",
            f"complete it with what its author had ({thin.recipe.made_with}), or ask for one with --precision fp32",
        )
    (work / CARRIED_NAME).unlink()
    card = work / CARD_NAME
    if card.is_file():
        card.write_bytes(without_note(card.read_text(encoding="utf-8", errors="replace")).encode())


def completed(thin: ThinBundle, name: str, base: str | None, offline: bool = False) -> Bundle:
    """The whole bundle of a thin one, from the cache if it was completed before.

    ``name``: what the user calls the thin one. ``base``: see ``find_base``; None: it must be in the cache.

    Raises BundleError or ModelError, also as ``find_base`` and ``finish`` do.
    """
    # Not the bundle's digest, which leaves out what the manifest itself says.
    out = needed_cache_folder(str(thin.path)) / "bundles" / "completed" / file_entry(thin.path / MANIFEST_NAME).sha256
    if not (out / MANIFEST_NAME).is_file():
        if base is None:
            raise missing_base(name, thin.manifest)
        write = find_base(thin.manifest, base, offline)
        with whole_folder(out) as work:
            for file in thin.names:
                if (thin.path / file).is_file():
                    (work / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(thin.path / file, work / file)
            finish(work, thin.manifest, write)
    return Bundle(out)
