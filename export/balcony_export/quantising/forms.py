"""The blocks that each matrix is offered: those whose kernels are fast, and as exact as the bundle shall be."""

from __future__ import annotations

from balcony_edge.bundle.manifest import Exactness, Formats
from balcony_export.graphs.formats import EXACT_BLOCKS
from balcony_export.graphs.rounding import Blocks, block_of
from balcony_export.graphs.weights import ALIGNMENT

# (bits, inputs of a block, symmetric). On CPUs zero points take no time at 4 bits in blocks of 64, but up to a half
# more at 8 bits; and 8 bits in blocks of 32 take half as long again as in blocks of 64.
OFFERED = {
    "int4": ((4, 128, True), (4, 128, False), (4, 64, True), (4, 64, False), (4, 32, False), (8, 64, True)),
    "int8": ((8, 64, True), (8, 32, True)),
}
# What the default size is made of: every matrix in these blocks.
USUAL = {"int4": (4, 64, True), "int8": (8, 64, True)}
# CUDA's kernels know one size of blocks for each matrix well.
ON_CUDA = {"int4": ((4, 32, True), (4, 32, False), (8, 32, True)), "int8": ((8, 32, True),)}


def offered(inputs: int, formats: Formats, exactness: Exactness) -> list[Blocks]:
    """The blocks that a matrix of ``inputs`` columns may have; smaller ones where the table's do not divide them."""
    table = OFFERED if formats.provider == "cpu" else ON_CUDA
    found: dict[Blocks, None] = {}
    for bits, size, symmetric in table[formats.base]:
        most = EXACT_BLOCKS["int4" if bits == 4 else "int8"] if exactness == "bit" else size
        found[Blocks(bits, block_of(inputs, min(size, most)), symmetric, formats.activations)] = None
    return list(found)


def usual(inputs: int, formats: Formats, exactness: Exactness) -> Blocks:
    """The blocks of ``USUAL``, or the nearest that is offered."""
    bits, size, symmetric = USUAL[formats.base]
    several = [one for one in offered(inputs, formats, exactness) if one.bits == bits]
    return min(several, key=lambda one: (abs(one.size - size), one.symmetric != symmetric))


def stored_bytes(shape: tuple[int, int], blocks: Blocks) -> int:
    """How much of the weights file a matrix [out, in] takes, with what its tensors' alignment costs."""
    outputs, inputs = shape
    count = -(-inputs // blocks.size)
    parts = [outputs * count * blocks.size * blocks.bits // 8, outputs * count * (4 if blocks.scales == "fp32" else 2)]
    if not blocks.symmetric:
        parts.append(outputs * -(-count * blocks.bits // 8))
    return sum(-(-part // ALIGNMENT) * ALIGNMENT for part in parts)
