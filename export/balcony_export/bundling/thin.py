"""A bundle without the weights of its base: ``balcony-edge thin`` makes it, and this completes it again.

A weights file's layout stands in the graphs, so the tensors that do not come from the base are carried end to end, in
the layout's order, without any index. The others are read from the base and rounded by the code of the export.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal

import onnxruntime

import balcony_edge
from balcony_edge.bundle.atomic_folder import whole_folder
from balcony_edge.bundle.folder import Bundle, ThinBundle
from balcony_edge.bundle.manifest import CARD_NAME, CARRIED_NAME, FileEntry, Manifest, Recipe
from balcony_edge.bundle.thin import add_note
from balcony_edge.errors import BundleError, ModelError
from balcony_export.bundling.exit_source import initial_exits
from balcony_export.exits.store import base_digest
from balcony_export.graphs.assembly import Parts, write_base_weights
from balcony_export.graphs.formats import BLOCK_SIZES
from balcony_export.graphs.kept import Kept
from balcony_export.graphs.layout import AGAIN, carried, frequent_tokens, read_layout
from balcony_export.graphs.quantiser import Nearest, Quantiser
from balcony_export.graphs.weights import CHUNK_BYTES, FILE_NAME, Place, WeightFile
from balcony_export.model import architectures
from balcony_export.model.download import resolve
from balcony_export.model.gguf.folder import linked_files
from balcony_export.model.model_files import read_json_object
from balcony_export.model.tensor_source import open_checkpoint
from balcony_export.progress import Progress

# Raise it when the same options give other bytes for a weight of the base than before. The order of tensors is free.
VERSION = 1
# What can be made again from the base alone, by the recipe's word.
QUANTISERS: Mapping[str, Callable[[], Quantiser]] = {Nearest.rounding: Nearest}


def recipe(work: Path, places: Mapping[str, Place], exits: Literal["trained", "init", "none"], rounding: str) -> Recipe:
    """The recipe of the weights file in ``work``, whose tensors lie at ``places``."""
    return Recipe(
        version=VERSION,
        rounding=rounding,
        exits=exits,
        carried=_entry(_pieces(work / FILE_NAME, places, exits)),
        made_with=f"balcony-edge {balcony_edge.__version__}, onnxruntime {onnxruntime.__version__} "
        f"on {platform.machine()}",
    )


def make_thin(bundle: Bundle, out: Path) -> ThinBundle:
    """Write the thin form of a bundle to the folder ``out``.

    Raises BundleError for a bundle whose weights cannot be made again from its base, or if ``out`` cannot be written.
    """
    found = _usable(bundle.manifest)
    layout = read_layout(bundle.path, bundle.manifest)
    with whole_folder(out) as work:
        for name in bundle.names:
            if name != FILE_NAME and bundle.file(name).is_file():
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.file(name), work / name)
        with (work / CARRIED_NAME).open("wb") as stream:
            for piece in _pieces(bundle.file(FILE_NAME), layout, found.exits):
                stream.write(piece)
        card = work / CARD_NAME
        if card.is_file():
            card.write_text(add_note(card.read_text(encoding="utf-8"), bundle.manifest), encoding="utf-8")
        ThinBundle(work)
    return ThinBundle(out)


def prepare(manifest: Manifest, base: str, offline: bool) -> Callable[[Path], None]:
    """The entry point of ``balcony_edge.completers``; see find_base in balcony_edge.bundle.completing."""
    _usable(manifest)
    folder = resolve(base, None, offline)
    if not linked_files(folder):
        read_json_object(folder / "config.json")
    digest = base_digest(folder)
    if digest != manifest.base.sha256:
        raise ModelError(
            f"{base} is not the base of this bundle: that is {manifest.base.model}, with sha256 "
            f"{manifest.base.sha256}; {base} has {digest}",
            "give the very file or folder that the bundle was made from; the same weights in another form (GGUF, "
            "safetensors) or with another config.json will not do",
        )
    return partial(write_weights, manifest, folder)


def write_weights(manifest: Manifest, folder: Path, work: Path) -> None:
    """Write the weights file of the thin bundle in ``work``, which was checked, from its base in ``folder``.

    Raises BundleError for a bundle that contradicts itself or its base. The file's digest is not looked at.
    """
    blueprint = architectures.read(folder, manifest.architecture.context)
    if blueprint.arch != manifest.architecture or manifest.formats.block_size not in BLOCK_SIZES:
        raise BundleError("the thin bundle's manifest does not go with its base", AGAIN)
    found = _usable(manifest)
    layout = read_layout(work, manifest)
    base = open_checkpoint(folder)
    # The scales of an int8 cache are carried.
    formats = manifest.formats.model_copy(update={"cache": manifest.formats.activations})
    exits = initial_exits(base, blueprint, manifest.splits) if found.exits == "init" else None
    parts = Parts(
        base,
        exits,
        manifest.splits,
        frequent_tokens(work, manifest),
        QUANTISERS[found.rounding](),
        Kept(manifest.exactness),
    )
    with Progress("weights, MB", manifest.files[FILE_NAME].bytes // 1_000_000) as progress:
        weights = WeightFile(work, lambda done: progress.reach(done // 1_000_000), layout)
        with closing(weights), (work / CARRIED_NAME).open("rb") as stream:
            try:
                for name in carried(layout, found.exits):
                    weights.copy(name, stream)
                write_base_weights(weights, blueprint, parts, formats, manifest.exactness)
            except (AssertionError, KeyError, ValueError) as error:
                raise BundleError(f"the thin bundle does not go with its base: {error}", AGAIN) from error
    written = {(place.offset, place.length) for place in weights.places.values()}
    missing = [name for name, place in layout.items() if (place.offset, place.length) not in written]
    if missing:
        raise BundleError(f"the thin bundle's graphs have a tensor that the base does not give: {missing[0]}", AGAIN)


def _usable(manifest: Manifest) -> Recipe:
    """The recipe, if weights can be made again by it; else raises BundleError with the reason."""
    found = manifest.recipe
    if found is None:
        raise BundleError(
            "the bundle does not say how its weights come from its base: it was made through torch, or before there "
            "were thin bundles",
            "export it again with this version of balcony-edge",
        )
    if found.rounding not in QUANTISERS:
        raise BundleError(
            f"the bundle's weights were rounded in a way ({found.rounding}) that other machines do not repeat bit for "
            "bit, so they cannot be made again from the base",
            "export with --rounding nearest, or --precision fp16 or fp32",
        )
    if found.version != VERSION:
        raise BundleError(
            f"the bundle's recipe has version {found.version}; this balcony-edge follows version {VERSION}",
            f"use what it was made with: {found.made_with}",
        )
    return found


def _pieces(path: Path, places: Mapping[str, Place], exits: str) -> Iterator[bytes]:
    """The bytes of the tensors of a weights file that a thin bundle carries."""
    with path.open("rb") as stream:
        for name in carried(places, exits):
            stream.seek(places[name].offset)
            for start in range(0, places[name].length, CHUNK_BYTES):
                yield stream.read(min(CHUNK_BYTES, places[name].length - start))


def _entry(pieces: Iterator[bytes]) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return FileEntry(bytes=size, sha256=digest.hexdigest())
