"""Quantise linear weights to 8 or 4 bits in blocks that share a scale, packed as MatMulNBits of ONNX Runtime reads."""

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

# Symmetric 4 bits hold whole numbers from -8 to 7.
LOWEST, HIGHEST = -8, 7
# The scales that are tried, as multiples of the one that makes the value of largest magnitude -8.
SCALE_FACTORS = (1.0, 0.9, 0.8, 1.1)
# A block without any larger value counts as all zeros: the reciprocal of its scale would overflow.
TINY = 1e-30
# How many values are worked on at a time: few enough to stay in a core's cache.
PIECE = 1 << 16
# Kernels for smaller blocks are slow.
SMALLEST = 32


@dataclass(frozen=True)
class Blocks:
    """How a linear weight is quantised."""

    bits: int
    """A value: 8 or 4."""
    size: int
    """How many of a row's inputs share a scale."""
    symmetric: bool
    """Without zero points."""
    scales: Activations
    """The type of the scales."""


def block_of(inputs: int, most: int) -> int:
    """The block size for a matrix of ``inputs`` columns: the largest power of two up to ``most`` that divides it.

    A size that does not divide the inputs would fill the last block up with zeros. But it is never below SMALLEST,
    unless ``most`` is.
    """
    return min(most, max(SMALLEST, inputs & -inputs))


def packed_numbers(numbers: Bytes, bits: int) -> Bytes:
    """Whole numbers as they are stored: those of 4 bits two to a byte along the last axis, the first one low."""
    if bits == 8:
        return numbers
    packed: Bytes = numbers[..., ::2] | (numbers[..., 1::2] << np.uint8(4))
    return packed


def round_blocks(weight: Array, blocks: Blocks) -> list[npt.NDArray[Any]]:
    """Quantise some rows, fp32 [out, in], of a weight.

    Returns packed values, uint8 [out, blocks, bytes], scales, fp32 [out, blocks], and, unless symmetric, packed zero
    points, uint8 [out, bytes].
    """
    # ONNX Runtime's quantiser takes the scale from a block's largest value alone. With 4 bits, searching for a better
    # scale loses much less of the model.
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
    """Symmetric 4 bits: try some scales for each block and take the one with the smallest squared error.

    Each scale tried gives whole numbers q for a block's values x. For these numbers the best scale is q·x / q·q, and
    the squared error that remains is x·x - (q·x)² / q·q. So the largest (q·x)² / q·q wins. Returns packed values and
    scales, as ``round_blocks``.
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
    return packed_numbers(halves, 4), scales
