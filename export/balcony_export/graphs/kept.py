"""Hold quantised weights exactly as their checkpoint does, in the blocks that MatMulNBits reads.

Where a checkpoint's blocks have a minimum, w = scale · level + minimum is split into scale · (level - zero), which
MatMulNBits computes, and an offset, scale · zero + minimum, which a small product with the sums of the inputs over
each block adds. Zero is the middle level: so inputs that are rounded to int8 cost least. Where that offset is no fp32
number, as with a minimum of many thousand times the scale, it is level 0, and the offset is the minimum itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_edge.bundle.manifest import Activations, Exactness
from balcony_edge.errors import ModelError
from balcony_export.graphs.formats import EXACT_BLOCKS
from balcony_export.graphs.matrix import Matrix
from balcony_export.graphs.rounding import Blocks, packed_numbers
from balcony_export.model.checkpoint import Array
from balcony_export.model.packed.numbers import Bytes, Form, Numbers

# MatMulNBits reads blocks of these sizes.
SMALLEST, LARGEST = 16, 256
# The largest blocks of bit-exact kernels, by bits.
EXACT = {4: EXACT_BLOCKS["int4"], 8: EXACT_BLOCKS["int8"]}


class Kept:
    """A Quantiser that rounds nothing: the numbers are the checkpoint's own.

    ``exactness`` "bit": blocks too large for bit-exact kernels are cut, each part with the same scale.
    """

    def __init__(self, exactness: Exactness = "float") -> None:
        self._exactness = exactness

    def held(self, name: str, weight: Matrix, usual: Blocks) -> Blocks:
        """The blocks of the matrix in the checkpoint, or equal parts of them."""
        form = form_of(weight)
        most = EXACT[form.bits] if self._exactness == "bit" else LARGEST
        size = min(form.block & -form.block, most)
        if size < SMALLEST:
            raise ModelError(
                f"{name} is held as {form.kind} in blocks of {form.block}, which ONNX Runtime cannot read",
                "use --precision int8, which rounds its weights again, or a checkpoint with groups of 32, 64 or 128",
            )
        return Blocks(form.bits, size, form.zero == "middle", "fp16" if form.half else usual.scales)

    def rows(self, name: str, weight: Matrix, blocks: Blocks, start: int, stop: int) -> Sequence[npt.NDArray[Any]]:
        """Rows [start, stop) of the matrix as ``rounding.round_blocks`` returns them."""
        numbers = weight.numbers(start, stop)
        times = numbers.form.block // blocks.size
        levels = numbers.levels.reshape(len(numbers.levels), -1, blocks.size)
        parts: list[npt.NDArray[Any]] = [packed_numbers(levels, blocks.bits), np.repeat(numbers.scales, times, axis=1)]
        if not blocks.symmetric:
            zeros = np.repeat(_split(numbers)[0] if numbers.form.zero == "minimum" else _levels(numbers), times, axis=1)
            if blocks.bits == 4 and zeros.shape[1] % 2:
                zeros = np.pad(zeros, ((0, 0), (0, 1)))
            parts.append(packed_numbers(zeros, blocks.bits))
        return parts


def offsets(weight: Matrix, blocks: Blocks, start: int, stop: int) -> Array:
    """What MatMulNBits leaves out of rows [start, stop): an offset for each block, fp32 [rows, blocks]."""
    numbers = weight.numbers(start, stop)
    return np.repeat(_split(numbers)[1], numbers.form.block // blocks.size, axis=1)


def _split(numbers: Numbers) -> tuple[Bytes, Array]:
    """Of blocks with a minimum: the level that is taken for zero, and the offset, each [rows, blocks]."""
    assert numbers.zeros is not None
    minimums = numbers.zeros.astype(np.float32)
    scaled = numbers.scales * np.float32(numbers.middle)
    middle = scaled + minimums
    # Two sums: the rounding error of a sum of floats is itself a float (Knuth's TwoSum).
    back = middle - scaled
    exact = ((scaled - (middle - back)) + (minimums - back)) == 0
    return np.where(exact, numbers.middle, 0).astype(np.uint8), np.where(exact, middle, minimums)


def _levels(numbers: Numbers) -> Bytes:
    assert numbers.zeros is not None
    return numbers.zeros.astype(np.uint8)


def form_of(weight: Matrix) -> Form:
    """The form of a matrix that is held quantised."""
    form = weight.form
    assert isinstance(form, Form)
    return form


def float_type(weight: Matrix, activations: Activations) -> Activations:
    """The type in which a matrix of floats is kept: its own, but bf16 as fp32 where activations are fp32."""
    form = weight.form
    assert isinstance(form, str)
    return "fp32" if form == "bf16" and activations == "fp32" else form


def check(forms: Collection[Form | Activations], activations: Activations) -> None:
    """Raise ModelError unless weights in these forms are exact beside activations of this type, as scales are."""
    if activations == "fp32":
        return
    for form in forms:
        exact = form == activations if isinstance(form, str) else form.half and form.zero != "minimum"
        if not exact or activations == "bf16":
            kind = form.upper() if isinstance(form, str) else form.kind
            raise ModelError(
                f"this checkpoint holds weights as {kind}, which {activations} activations on CUDA cannot keep exactly",
                "use --provider cpu, a file of Q4_0, Q5_0 or Q8_0 with an fp16 embedding, or --precision int8",
            )


def is_bit_exact(forms: Collection[Form | Activations]) -> bool:
    """Whether kernels are bit-exact for these forms with their blocks as they are."""
    return all(isinstance(form, str) or form.block <= EXACT[form.bits] for form in forms)
