"""Block-wise rounding of linear weights, packed as ONNX Runtime's MatMulNBits reads them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_edge.bundle.manifest import Activations
from balcony_export.model.checkpoint import Array

Bytes = npt.NDArray[np.uint8]

# Symmetric 4 bits: whole numbers from -8 to 7, the value of largest magnitude at -8 times one of these.
LOWEST, HIGHEST = -8, 7
SCALE_FACTORS = (1.0, 0.9, 0.8, 1.1)
# Blocks of nothing larger are zeros: their scales' reciprocals would overflow.
TINY = 1e-30
# Values worked on at a time: so few that they stay in a core's cache.
PIECE = 1 << 16
# Smaller blocks are slow, and larger ones that do not divide a matrix's inputs would be filled up with zeros.
SMALLEST = 32


@dataclass(frozen=True)
class Blocks:
    """Block-wise rounding of a linear weight: ``bits`` a value, one scale of type ``scales`` per ``size`` inputs."""

    bits: int
    size: int
    symmetric: bool
    scales: Activations


def block_of(inputs: int, most: int) -> int:
    """The largest power of two up to ``most`` that divides ``inputs``; not under SMALLEST where ``most`` is not."""
    return min(most, max(SMALLEST, inputs & -inputs))


def round_blocks(weight: Array, blocks: Blocks) -> list[npt.NDArray[Any]]:
    """Some rows [out, in] as packed uint8 [out, blocks, bytes], fp32 scales [out, blocks] and, unless symmetric,
    packed zero points [out, bytes].

    Symmetric 4 bits are rounded by this module: a scale from the block's largest value alone loses more of the model.
    The rest is ONNX Runtime's own quantiser.
    """
    if blocks.symmetric and blocks.bits == 4:
        rows = max(1, PIECE // weight.shape[1])
        pieces = [weight[start : start + rows] for start in range(0, len(weight), rows)]
        with ThreadPoolExecutor(cpu_count()) as pool:
            done = list(pool.map(lambda piece: _round_by_search(piece, blocks.size), pieces))
        return [np.concatenate(parts) for parts in zip(*done, strict=True)]
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        DefaultWeightOnlyQuantizer,
    )

    settings = DefaultWeightOnlyQuantConfig(block_size=blocks.size, is_symmetric=blocks.symmetric, bits=blocks.bits)
    packed, scales, zeros = DefaultWeightOnlyQuantizer(settings).qbits_block_quant(np.ascontiguousarray(weight.T))
    parts = [packed, scales.reshape(len(packed), -1)]
    return parts if blocks.symmetric else [*parts, zeros.reshape(len(packed), -1)]


def _round_by_search(weight: Array, size: int) -> tuple[Bytes, Array]:
    """Each block at that scale, of a few and the best one for the numbers that they give, whose squared error is least.

    With whole numbers q for the values x, the best scale is q·x / q·q, which leaves an error of x·x - (q·x)² / q·q.
    """
    rows, inputs = weight.shape
    count = -(-inputs // size)
    values = np.zeros((rows, count, size), np.float32)
    values.reshape(rows, -1)[:, :inputs] = weight
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=-1, keepdims=True), axis=-1)
    step = np.where(np.abs(largest) < TINY, 1.0, largest / LOWEST).astype(np.float32)
    values /= step
    best = np.zeros_like(values)
    scales = np.zeros((rows, count), np.float32)
    explained = np.full((rows, count), -1.0, np.float32)
    numbers = np.empty_like(values)
    for factor in SCALE_FACTORS:
        np.multiply(values, np.float32(1.0 / factor), out=numbers)
        np.rint(numbers, out=numbers)
        np.clip(numbers, LOWEST, HIGHEST, out=numbers)
        together = np.einsum("rbs,rbs->rb", numbers, values)
        alone = np.maximum(np.einsum("rbs,rbs->rb", numbers, numbers), 1.0)
        gain = together * together / alone
        better = gain > explained
        best[better], scales[better], explained[better] = numbers[better], (together / alone)[better], gain[better]
    scales *= step[..., 0]
    halves: Bytes = (best - LOWEST).astype(np.uint8)
    packed: Bytes = halves[..., ::2] | (halves[..., 1::2] << np.uint8(4))
    return packed, scales
