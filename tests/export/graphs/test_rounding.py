"""Block-wise rounding: what MatMulNBits makes of it, and how far it lies from the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from balcony_export.graphs.rounding import Blocks, block_of, round_blocks
from balcony_export.model.checkpoint import Array
from helpers.matmul_nbits import multiply


def blocks(bits: int, size: int, symmetric: bool = True) -> Blocks:
    return Blocks(bits, size, symmetric, "fp32")


def read(parts: list[np.ndarray], inputs: int) -> Array:
    """The weights [out, in] that symmetric 4 bits stand for."""
    packed, scales = parts
    numbers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*scales.shape, -1).astype(np.float32) - 8.0
    return (numbers * scales[..., None]).reshape(len(packed), -1)[:, :inputs]


def plain(weight: Array, size: int) -> Array:
    """Rounded to the scale at which the value of largest magnitude is -8."""
    padded = np.pad(weight, ((0, 0), (0, -weight.shape[1] % size))).reshape(len(weight), -1, size)
    largest = np.take_along_axis(padded, np.abs(padded).argmax(axis=-1, keepdims=True), axis=-1)
    step = np.where(np.abs(largest) < 1e-30, 1.0, largest / -8.0)
    return (np.clip(np.rint(padded / step), -8, 7) * step).reshape(len(weight), -1)[:, : weight.shape[1]]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("inputs", "size"), [(256, 128), (96, 32), (172, 32), (64, 64), (48, 16)])
def test_the_runtime_multiplies_by_nearly_the_weight(
    tmp_path: Path, bits: int, symmetric: bool, inputs: int, size: int
) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((40, inputs)).astype(np.float32)
    parts = round_blocks(weight, blocks(bits, size, symmetric))
    read_back = multiply(tmp_path, np.eye(inputs, dtype=np.float32), parts, bits, size)
    error = read_back.T - weight
    # Of values up to 4: half a step, and what a smaller scale cuts off.
    assert np.abs(error).max() < (0.9 if bits == 4 else 0.03)
    if bits == 4 and symmetric:
        np.testing.assert_allclose(read_back.T, read(parts, inputs), atol=1e-5)


@given(
    arrays.arrays(np.float32, (3, 80), elements=st.floats(-1e3, 1e3, width=32)),
    st.sampled_from([16, 32, 64, 128]),
    st.sampled_from([1.0, 1e-20, 1e-44, 1e20]),
)
def test_searched_scales_are_never_worse_than_plain_ones(values: Array, size: int, unit: float) -> None:
    weight = (values * np.float32(unit)).astype(np.float32)
    back = read(round_blocks(weight, blocks(4, size)), 80)
    assert np.isfinite(back).all()
    scale = max(1e-30, float(np.abs(weight).max()))
    mine = np.square((back - weight).astype(np.float64) / scale).sum()
    theirs = np.square((plain(weight, size) - weight).astype(np.float64) / scale).sum()
    assert mine <= theirs * (1 + 1e-4) + 1e-9


def test_searched_scales_lose_a_tenth_less_of_gaussian_weights() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    mine = np.square(read(round_blocks(weight, blocks(4, 64)), 512) - weight).mean()
    assert mine < 0.93 * np.square(plain(weight, 64) - weight).mean()


def test_what_4_bits_can_hold_stays_as_it_is() -> None:
    numbers = np.random.default_rng(0).integers(-8, 8, (5, 64)).astype(np.float32)
    numbers[:, ::32] = -8.0
    weight = numbers * np.float32(0.25)
    assert np.array_equal(read(round_blocks(weight, blocks(4, 32)), 64), weight)


def test_rows_do_not_depend_on_the_piece_that_they_are_rounded_in() -> None:
    weight = np.random.default_rng(0).standard_normal((300, 1024)).astype(np.float32)
    whole, alone = round_blocks(weight, blocks(4, 64)), round_blocks(weight[170:171], blocks(4, 64))
    assert all(np.array_equal(a[170:171], b) for a, b in zip(whole, alone, strict=True))


@pytest.mark.parametrize(
    ("inputs", "most", "size"),
    [(4096, 128, 128), (576, 128, 64), (352, 128, 32), (172, 128, 32), (172, 16, 16), (2048, 256, 256)],
)
def test_blocks_are_as_large_as_divides_the_inputs(inputs: int, most: int, size: int) -> None:
    assert block_of(inputs, most) == size
