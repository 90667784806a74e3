"""Where the tensors of a weights file lie, as the graphs over it say, and which of them do not come from the base."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from balcony_edge.bundle.manifest import Manifest
from balcony_edge.errors import BundleError
from balcony_export.graphs.layers import EMBEDDING, EMBEDDING_ROWS
from balcony_export.graphs.stages import FREQUENT
from balcony_export.graphs.weights import FILE_NAME, Place, aligned

# Scales of the KV cache are measured. Rotary tables follow from the config, but another machine's cosine may differ in
# the last bit.
CARRIED = re.compile(r"rope(\.\w+)?\.(cos|sin)|.+\.(key|value)_scale", re.ASCII)
AGAIN = "do not use this bundle unless you know who made it; get it again"


def read_layout(folder: Path, manifest: Manifest) -> dict[str, Place]:
    """The place of every tensor in the weights file of the bundle in ``folder``; the file need not be there.

    Raises BundleError unless all graphs agree, and the tensors fill the file without overlaps.
    """
    layout: dict[str, Place] = {}
    for file in (name for name in manifest.files if name.endswith(".onnx")):
        for tensor in _graph(folder / file).initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                continue
            place = _place(tensor)
            if place is None or layout.setdefault(tensor.name, place) != place:
                raise BundleError(f"{file} puts {tensor.name} where it cannot be", AGAIN)
    if (rows := layout.get(EMBEDDING_ROWS)) is not None:
        # An embedding that is not the head has no other name in the graphs.
        layout.setdefault(f"{EMBEDDING}.packed", rows)
    end = 0
    # A set: a tied head has two names for one place.
    for offset, length in sorted({(place.offset, place.length) for place in layout.values()}):
        if offset != aligned(end):
            raise BundleError(f"the tensors of {FILE_NAME} leave gaps or overlap", AGAIN)
        end = offset + length
    if end != manifest.files[FILE_NAME].bytes:
        raise BundleError(f"the tensors do not fill {FILE_NAME}", AGAIN)
    return layout


def carried(layout: Mapping[str, Place], exits: str) -> list[str]:
    """The tensors that a thin bundle carries, as they follow one another. ``exits``: see Recipe."""
    names = [name for name in layout if CARRIED.fullmatch(name) or (exits == "trained" and name.startswith("exits."))]
    return sorted(names, key=lambda name: (layout[name].offset, name))


def frequent_tokens(folder: Path, manifest: Manifest) -> tuple[int, ...]:
    """The tokens whose rows of the head the gates read, from the graph of an exit; () without gates.

    Raises BundleError if they are no ascending token ids.
    """
    gated = [graph.file for graph in manifest.exits if graph.gate]
    if not gated:
        return ()
    found = [tensor for tensor in _graph(folder / gated[0]).initializer if tensor.name == FREQUENT]
    try:
        tokens = onnx.numpy_helper.to_array(found[0])
        known = tokens.dtype == np.int64 and tokens.ndim == 1 and tokens.size > 0
        if not known or tokens[0] < 0 or tokens[-1] >= manifest.architecture.vocabulary or (np.diff(tokens) < 1).any():
            raise ValueError("they do not ascend within the vocabulary")
    except (IndexError, TypeError, ValueError) as error:
        raise BundleError(f"{gated[0]} has no frequent tokens that can be read: {error}", AGAIN) from error
    return tuple(tokens.tolist())


def _graph(path: Path) -> onnx.GraphProto:
    try:
        return onnx.load(path, load_external_data=False).graph
    except (OSError, DecodeError) as error:
        raise BundleError(f"{path} is no ONNX graph that can be read: {error}", AGAIN) from error


def _place(tensor: onnx.TensorProto) -> Place | None:
    """Where the tensor lies; None if that is not in the weights file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    offset, length = entries.get("offset", "0"), entries.get("length", "")
    numbers = all(text.isascii() and text.isdigit() and len(text) < 20 for text in (offset, length))
    if entries.get("location") != FILE_NAME or not numbers:
        return None
    return Place(int(offset), int(length), tuple(tensor.dims), tensor.data_type)
