"""Are kept weights the checkpoint's own? What a bundle holds, dequantised again, against what the checkpoint does.

The two sides share no code: the bundle is read by MatMulNBits' definition, GGUF by its own library.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import Exactness
from balcony_export.bundling.exit_source import find_exits
from balcony_export.graphs.assembly import Parts, write_graphs
from balcony_export.graphs.kept import Kept
from balcony_export.graphs.layers import EMBEDDING_ROWS
from balcony_export.graphs.matrix import Matrix
from balcony_export.graphs.rounding import Blocks
from balcony_export.graphs.weights import CHUNK_BYTES, FILE_NAME, WeightFile
from balcony_export.model import architectures
from balcony_export.model.checkpoint import Array
from balcony_export.model.tensor_source import open_checkpoint
from balcony_export.verification.report import StageRow, Verification

NODES = ("MatMulNBits", "GatherBlockQuantized")


@dataclass(frozen=True)
class Difference:
    """How far the kept weights of a bundle are from the checkpoint's."""

    matrices: int
    weights: int
    """How many weights these have together."""
    unequal: int
    """How many of them are not the checkpoint's, bit for bit in fp32."""
    largest: float
    """The largest difference."""


class _Recorder(Kept):
    """Notes which matrices are kept, by their names in the graphs."""

    def __init__(self, exactness: Exactness) -> None:
        super().__init__(exactness)
        self.matrices: dict[str, Matrix] = {}

    def held(self, name: str, weight: Matrix, usual: Blocks) -> Blocks:
        self.matrices[name] = weight
        return super().held(name, weight, usual)


def with_kept(found: Verification, bundle: Bundle, folder: Path) -> Verification:
    """The result of ``verify`` with a row for the kept weights, if the bundle has any."""
    row = kept_row(bundle, folder)
    return found if row is None else replace(found, rows=[row, *found.rows])


def kept_row(bundle: Bundle, folder: Path) -> StageRow | None:
    """The row for the kept weights of a bundle, which passes if all are the checkpoint's; None if it has none."""
    if not bundle.manifest.formats.kept:
        return None
    difference = compare(bundle, folder)
    note = f"{difference.weights:,} weights of {difference.matrices} matrices"
    note += f", {difference.unequal:,} unequal" if difference.unequal else " equal"
    return StageRow("weights", "as kept", difference.unequal == 0, difference.largest, note=note)


def compare(bundle: Bundle, folder: Path) -> Difference:
    """Compare every kept weight of ``bundle`` with the checkpoint in ``folder``, some rows at a time."""
    matrices = _kept_matrices(bundle, folder)
    unequal, largest = 0, 0.0
    held: dict[str, _Held] = {}
    for graph in bundle.manifest.graphs:
        held |= _held(bundle, graph.file)
    for name, matrix in matrices.items():
        rows, inputs = matrix.shape
        step = max(1, CHUNK_BYTES // 8 // inputs)
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            expected, found = matrix.rows(start, stop), held[name].rows(start, stop, rows)
            wrong = found != expected
            if wrong.any():
                unequal += int(np.count_nonzero(wrong))
                largest = max(largest, float(np.abs(found[wrong].astype(np.float64) - expected[wrong]).max()))
    weights = sum(math.prod(matrix.shape) for matrix in matrices.values())
    return Difference(len(matrices), weights, unequal, largest)


def _kept_matrices(bundle: Bundle, folder: Path) -> dict[str, Matrix]:
    """The matrices that a bundle keeps, of the checkpoint, by their names in the graphs."""
    manifest = bundle.manifest
    base = open_checkpoint(folder)
    # What the manifest says of the head may differ from the config.
    blueprint = replace(architectures.read(folder, manifest.architecture.context), arch=manifest.architecture)
    formats = manifest.formats.model_copy(update={"cache": manifest.formats.activations})
    splits = find_exits(None, manifest.splits, base, blueprint, folder).splits
    recorder = _Recorder(manifest.exactness)
    parts = Parts(base, None, splits, keeper=recorder)
    write_graphs(None, WeightFile(None), blueprint, parts, formats, manifest.exactness)
    return recorder.matrices


@dataclass(frozen=True)
class _Held:
    """One quantised matrix in the files of a bundle."""

    bits: int
    block: int
    tensors: dict[str, npt.NDArray[Any]]
    """packed, scales and, perhaps, zeros and offsets; mapped."""
    order: npt.NDArray[np.int32] | None

    def rows(self, start: int, stop: int, count: int) -> Array:
        """Rows [start, stop) of ``count``, by MatMulNBits' definition: (level - zero) · scale, in fp32."""

        def part(name: str) -> npt.NDArray[Any]:
            return self.tensors[name].reshape(count, -1)[start:stop]

        scales = part("scales").astype(np.float32)[..., None]
        levels = self._levels(part("packed")).reshape(stop - start, -1, self.block)
        zeros = np.full((1, 1, 1), 1 << (self.bits - 1), np.float32)
        if "zeros" in self.tensors:
            zeros = self._levels(part("zeros"))[:, : scales.shape[1], None].astype(np.float32)
        values = (levels - zeros) * scales
        if "offsets" in self.tensors:
            # What is left out of the product is added to it: rounded once, as the checkpoint's library rounds the sum.
            values = (values.astype(np.float64) + part("offsets")[..., None]).astype(np.float32)
        plain = values.reshape(stop - start, -1).astype(np.float32)
        if self.order is not None:
            plain[:, self.order] = plain.copy()
        return plain

    def _levels(self, packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if self.bits == 8:
            return packed
        return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


def _held(bundle: Bundle, file: str) -> dict[str, _Held]:
    """The quantised matrices of one graph, by their names."""
    graph = onnx.load(bundle.file(file), load_external_data=False).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    made = {node.output[0]: node for node in graph.node}
    path = bundle.file(FILE_NAME)
    found = {}
    for node in graph.node:
        if node.op_type in NODES:
            attributes = {item.name: item.i for item in node.attribute}
            widened = made.get(node.input[2])
            name = (node.input[2] if widened is None else widened.input[0]).removesuffix(".scales")
            tensors = {part: _mapped(path, stored[full]) for part, full in _tensors(name, stored)}
            before = made.get(node.input[0])
            ordered = before is not None and before.op_type == "Gather" and before.input[1] in stored
            order = _mapped(path, stored[before.input[1]]) if before is not None and ordered else None
            found[name] = _Held(attributes["bits"], attributes["block_size"], tensors, order)
    return found


def _tensors(name: str, stored: dict[str, onnx.TensorProto]) -> Iterator[tuple[str, str]]:
    """The parts that a matrix has, and the names of their tensors."""
    for part in ("packed", "scales", "zeros", "offsets"):
        if f"{name}.{part}" in stored:
            yield part, f"{name}.{part}"
        elif part == "packed":
            # A lookup has them in another shape, under the embedding's name.
            yield part, EMBEDDING_ROWS


def _mapped(path: Path, tensor: onnx.TensorProto) -> npt.NDArray[Any]:
    """A tensor of the weights file, mapped."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.memmap(path, dtype, "r", int(said["offset"]), tuple(tensor.dims))
