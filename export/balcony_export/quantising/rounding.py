"""Rounding that compensates its errors: weights in blocks, so that the outputs on a calibration text change least.

A matrix W [out, in] meets inputs x. Its rounded form Q shall make the squared error of the outputs small, which is
(W - Q) H (W - Q)ᵀ with H = Σ x xᵀ. Columns are rounded one after the other, and what each loses is made good by those
that are still to come (GPTQ, arXiv 2210.17323). Then sweeps go over all columns again, each taking the best whole
number given all others (coordinate descent), and between them the scales are fitted anew.

Arrays are transposed, [in, out], so that a column of the weight is contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_export.graphs.rounding import Blocks, packed_numbers
from balcony_export.model.checkpoint import Array

# What is added to the diagonal of H, as a share of its mean: directions that the text hardly has stay tame. Much more
# than GPTQ's 0.01, which fits the calibration text: on another one it lost twice as much.
DAMPING = 0.2
# Columns that are worked on together; what they change in the others is then one product of matrices.
TOGETHER = 64
# The ranges that are tried for a block, as shares of that from its least to its largest value.
RANGES = (1.0, 0.93, 0.86, 0.79)
SWEEPS = 2
TINY = 1e-12


@dataclass
class Rounded:
    """A matrix as whole numbers: value = (number - zero) · scale."""

    numbers: Array
    """[in, out], whole numbers from 0 to 2^bits - 1."""
    scales: Array
    """[blocks, out]"""
    zeros: Array
    """[blocks, out], whole numbers like ``numbers``."""
    size: int
    """Inputs of a block."""

    def packed(self, blocks: Blocks) -> list[npt.NDArray[Any]]:
        """The tensors of MatMulNBits, as ``rounding.round_blocks`` in graphs returns them."""
        numbers = self.numbers.T.astype(np.uint8).reshape(self.numbers.shape[1], len(self.scales), -1)
        parts: list[npt.NDArray[Any]] = [packed_numbers(numbers, blocks.bits), np.ascontiguousarray(self.scales.T)]
        if not blocks.symmetric:
            zeros = self.zeros.T.astype(np.uint8)
            if blocks.bits == 4:
                zeros = np.pad(zeros, ((0, 0), (0, len(self.zeros) % 2)))
            parts.append(np.ascontiguousarray(packed_numbers(zeros, blocks.bits)))
        return parts

    def values(self) -> Array:
        """What the numbers stand for, fp32 [in, out]."""
        spread = (len(self.scales), self.size, -1)
        centred = self.numbers.reshape(spread) - self.zeros[:, None]
        return (centred * self.scales[:, None]).reshape(self.numbers.shape)


def damped(second_moments: Array) -> Array:
    """H with the damping on its diagonal; inputs that are always 0 get 1."""
    diagonal = np.diagonal(second_moments)
    mean = float(diagonal.mean()) or 1.0
    out = second_moments.copy()
    out[np.diag_indices(len(out))] += DAMPING * mean
    return out


def round_compensated(weight: Array, moments: Array, blocks: Blocks, sweeps: int = SWEEPS) -> Rounded:
    """Round ``weight``, fp32 [in, out], for inputs with the damped second moments ``moments``, fp32 [in, in].

    Where blocks do not divide the inputs, the last one is filled up with zeros.
    """
    if more := -len(weight) % blocks.size:
        weight = np.pad(weight, ((0, more), (0, 0)))
        moments = np.pad(moments, ((0, more), (0, more)))
        moments[-more:, -more:] = np.eye(more, dtype=np.float32) * np.diagonal(moments)[:-more].mean()
    scales, zeros = search_scales(weight, np.diagonal(moments), blocks)
    found = Rounded(np.empty_like(weight), scales, zeros, blocks.size)
    top = np.float32(2**blocks.bits - 1)
    found.scales = stored_scales(found.scales, blocks)
    _round_in_order(weight, moments, found, top)
    for _ in range(sweeps):
        _fit_scales(weight, moments, found, blocks)
        _sweep(weight, moments, found, top)
    _fit_scales(weight, moments, found, blocks)
    return found


def stored_scales(scales: Array, blocks: Blocks) -> Array:
    """The scales as they will be stored; fp32 ones that fp16 cannot hold become its largest or its smallest."""
    if blocks.scales == "fp32":
        return scales
    limits = np.finfo(np.float16)
    sizes = np.clip(np.abs(scales), limits.smallest_subnormal, limits.max)
    stored: Array = np.copysign(sizes, scales).astype(np.float16).astype(np.float32)
    return stored


def search_scales(weight: Array, importance: Array, blocks: Blocks) -> tuple[Array, Array]:
    """Scales and zero points, fp32 [blocks, out] each, with the least squared error weighted by ``importance`` [in]."""
    inputs, outputs = weight.shape
    count = inputs // blocks.size
    values = weight.reshape(count, blocks.size, outputs)
    weights = importance.reshape(count, blocks.size, 1)
    top = 2**blocks.bits - 1
    low, high = np.minimum(values.min(axis=1), 0), np.maximum(values.max(axis=1), 0)
    if blocks.symmetric:
        largest = np.maximum(-low, high)
        # 2^(bits-1) levels on one side, one fewer on the other: the larger side gets the more.
        sign = np.where(high > -low, np.float32(-1), np.float32(1))
        ranges = [(largest * share / np.float32(2 ** (blocks.bits - 1)) * sign, None) for share in RANGES]
    else:
        ranges = [
            ((high * above - low * below) / np.float32(top), low * below)
            for above in RANGES
            for below in RANGES
            if blocks.bits < 8 or above == below == 1.0
        ]
    best: Array | None = None
    for raw, start in ranges:
        scale = np.where(np.abs(raw) < TINY, np.float32(1), raw).astype(np.float32)
        zero = (
            np.full_like(scale, 2 ** (blocks.bits - 1)) if start is None else np.clip(np.rint(-start / scale), 0, top)
        )
        numbers = np.rint(values / scale[:, None])
        np.clip(numbers, -zero[:, None], top - zero[:, None], out=numbers)
        numbers *= scale[:, None]
        numbers -= values
        numbers *= numbers
        loss = (numbers * weights).sum(axis=1)
        if best is None:
            best, scales, zeros = loss, scale, zero
        else:
            better = loss < best
            best[better], scales[better], zeros[better] = loss[better], scale[better], zero[better]
    return scales, zeros


def _round_in_order(weight: Array, moments: Array, found: Rounded, top: np.float32) -> None:
    """Round column by column, those of the largest inputs first, and let the later ones make good what is lost."""
    order = np.argsort(-np.diagonal(moments), kind="stable")
    # The upper triangle U of H⁻¹ = Uᵀ U: row j says how the columns after j answer an error in j.
    lower = np.linalg.cholesky(moments[np.ix_(order, order)][::-1, ::-1].astype(np.float64))
    upper = np.linalg.inv(lower)[::-1, ::-1].astype(np.float32)
    rest = weight[order]
    block = order // found.size
    for start in range(0, len(order), TOGETHER):
        stop = min(start + TOGETHER, len(order))
        errors = np.empty((stop - start, weight.shape[1]), np.float32)
        for at in range(start, stop):
            scale, zero = found.scales[block[at]], found.zeros[block[at]]
            numbers = np.rint(rest[at] / scale)
            numbers += zero
            np.clip(numbers, 0, top, out=numbers)
            found.numbers[order[at]] = numbers
            numbers -= zero
            numbers *= scale
            error = (rest[at] - numbers) / upper[at, at]
            errors[at - start] = error
            if at + 1 < stop:
                rest[at + 1 : stop] -= upper[at, at + 1 : stop, None] * error
        rest[stop:] -= upper[start:stop, stop:].T @ errors


def _sweep(weight: Array, moments: Array, found: Rounded, top: np.float32) -> None:
    """Each column takes the best whole numbers, given those of all other columns."""
    pull = moments @ (weight - found.values())
    for start in range(0, len(weight), TOGETHER):
        stop = min(start + TOGETHER, len(weight))
        changes = np.empty((stop - start, weight.shape[1]), np.float32)
        inside = pull[start:stop]
        for at in range(start, stop):
            scale = found.scales[at // found.size]
            old = found.numbers[at]
            new = inside[at - start] / moments[at, at]
            new /= scale
            new += old
            np.rint(new, out=new)
            np.clip(new, 0, top, out=new)
            change = (new - old) * scale
            found.numbers[at] = new
            changes[at - start] = change
            inside[at - start + 1 :] -= moments[at, at + 1 : stop, None] * change
        pull[stop:] -= moments[start:stop, stop:].T @ changes


def _fit_scales(weight: Array, moments: Array, found: Rounded, blocks: Blocks) -> None:
    """The scales of a row that make the error least for its whole numbers: a small system of equations each row."""
    count = len(found.scales)
    centred = found.numbers.reshape(count, found.size, -1) - found.zeros[:, None]
    outputs = weight.shape[1]
    aim = (moments @ weight).reshape(count, found.size, outputs)
    right = (centred * aim).sum(axis=1).T.astype(np.float64)
    left = np.empty((outputs, count, count))
    for one in range(count):
        columns = moments[:, one * found.size : (one + 1) * found.size]
        answer = (columns @ centred[one]).reshape(count, found.size, outputs)
        left[:, :, one] = (centred * answer).sum(axis=1).T
    diagonal = np.einsum("obb->ob", left)
    # A block of zeros keeps its scale.
    empty = diagonal <= 0
    diagonal += 1e-6 * diagonal.mean(axis=1, keepdims=True) + TINY
    solved = np.linalg.solve(left, right[..., None])[..., 0].T
    fitted = np.where(empty.T | ~np.isfinite(solved), found.scales, solved).astype(np.float32)
    found.scales = stored_scales(fitted, blocks)
