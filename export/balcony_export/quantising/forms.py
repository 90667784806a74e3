"""The blocks that each matrix is offered: those whose kernels are fast, and as exact as the bundle shall be."""

from __future__ import annotations

from balcony_edge.bundle.manifest import Activations, Exactness, Formats
from balcony_export.graphs.kept import EXACT
from balcony_export.graphs.rounding import Blocks, block_of
from balcony_export.graphs.weights import ALIGNMENT

# (bits, most inputs of a block, symmetric). On CPUs, 4 bits in blocks of 128 are much faster than in smaller ones, and
# zero points take no time there. At 8 bits they take up to a half more, as blocks of 32 do.
OFFERED = {"int4": ((4, 128, True), (4, 128, False), (8, 64, True)), "int8": ((8, 64, True), (8, 32, True))}
# CUDA's kernels are kept to the blocks that every version has.
ON_CUDA = {"int4": ((4, 32, True), (4, 32, False), (8, 32, True)), "int8": ((8, 32, True),)}
# Scales take 2 bytes; on CPUs they are widened at load.
SCALES: Activations = "fp16"
# The default size is as if every matrix had these blocks: at int4, 4.5 bits a weight. Wider ones leave bytes for some
# matrices at 8 bits.
USUAL = {"int4": (4, 32), "int8": (8, 64)}


def offered(inputs: int, formats: Formats, exactness: Exactness) -> list[Blocks]:
    """The blocks that a matrix of ``inputs`` columns may have; smaller ones where the table's do not divide them."""
    table = OFFERED if formats.provider == "cpu" else ON_CUDA
    found: dict[Blocks, None] = {}
    for bits, size, symmetric in table[formats.base]:
        most = min(size, EXACT[bits]) if exactness == "bit" else size
        found[Blocks(bits, block_of(inputs, most), symmetric, SCALES)] = None
    return list(found)


def usual(inputs: int, formats: Formats, exactness: Exactness) -> Blocks:
    """The blocks that the default size is reckoned with."""
    bits, size = USUAL[formats.base]
    if formats.provider == "cuda":
        size = 32
    most = min(size, EXACT[bits]) if exactness == "bit" else size
    return Blocks(bits, block_of(inputs, most), True, SCALES)


def stored_bytes(shape: tuple[int, int], blocks: Blocks) -> int:
    """How much of the weights file a matrix [out, in] takes, with what its tensors' alignment costs."""
    outputs, inputs = shape
    count = -(-inputs // blocks.size)
    parts = [outputs * count * blocks.size * blocks.bits // 8, outputs * count * (4 if blocks.scales == "fp32" else 2)]
    if not blocks.symmetric:
        parts.append(outputs * -(-count * blocks.bits // 8))
    return sum(-(-part // ALIGNMENT) * ALIGNMENT for part in parts)
