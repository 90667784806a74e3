"""Rounding that compensates its errors: less lost than by nearest rounding, and what MatMulNBits makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_export.graphs.rounding import Blocks, round_blocks
from balcony_export.model.checkpoint import Array
from balcony_export.quantising.rounding import Rounded, damped, round_compensated, search_scales, stored_scales
from helpers.matmul_nbits import multiply


def correlated(inputs: int, seed: int, positions: int = 400) -> tuple[Array, Array]:
    """A weight [in, 24] and inputs [positions, in] whose channels go together."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((inputs, inputs)) * random.exponential(1.0, (inputs, 1))
    seen = (random.standard_normal((positions, inputs)) @ mixing).astype(np.float32)
    return random.standard_normal((inputs, 24)).astype(np.float32), seen


def lost(weight: Array, other: Array, seen: Array) -> float:
    return float(np.square(seen @ (weight - other)).sum())


def nearest(weight: Array, seen: Array, blocks: Blocks) -> Array:
    """Each weight rounded by itself, in the same scales."""
    scales, zeros = search_scales(weight, np.square(seen).mean(axis=0), blocks)
    spread = weight.reshape(len(scales), blocks.size, -1)
    numbers = np.clip(np.rint(spread / scales[:, None]) + zeros[:, None], 0, 2**blocks.bits - 1)
    return Rounded(numbers.reshape(weight.shape), scales, zeros, blocks.size).values()


@given(seed=st.integers(0, 2**32), bits=st.sampled_from([4, 8]), symmetric=st.booleans())
def test_compensated_rounding_loses_less_than_nearest(seed: int, bits: int, symmetric: bool) -> None:
    weight, seen = correlated(64, seed)
    blocks = Blocks(bits, 32, symmetric, "fp32")
    found = round_compensated(weight, damped(seen.T @ seen), blocks)
    assert lost(weight, found.values(), seen) < 0.9 * lost(weight, nearest(weight, seen, blocks), seen)


def test_sweeps_only_improve() -> None:
    weight, seen = correlated(96, 5)
    moments = damped(seen.T @ seen)

    def objective(sweeps: int) -> float:
        left = weight - round_compensated(weight, moments, Blocks(4, 32, False, "fp32"), sweeps).values()
        return float((left * (moments @ left)).sum())

    losses = [objective(sweeps) for sweeps in range(4)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("inputs", "size"), [(96, 32), (70, 32), (128, 64), (48, 16)])
def test_the_runtime_multiplies_by_its_values(
    bits: int, symmetric: bool, inputs: int, size: int, tmp_path: Path
) -> None:
    weight, seen = correlated(inputs, 3)
    blocks = Blocks(bits, size, symmetric, "fp32")
    found = round_compensated(weight, damped(seen.T @ seen), blocks)
    tensors = found.packed(blocks)
    like = round_blocks(np.ascontiguousarray(weight.T), blocks)
    assert [(one.shape, one.dtype) for one in tensors] == [(one.shape, one.dtype) for one in like]
    out = multiply(tmp_path, seen[:3], tensors, bits, size)
    expected = seen[:3] @ found.values()[:inputs]
    np.testing.assert_allclose(out, expected, atol=1e-3 * float(np.abs(expected).max()))


def test_scales_of_two_bytes_are_what_the_numbers_are_chosen_for() -> None:
    weight, seen = correlated(64, 2)
    weight *= np.float32(1e-3)
    moments = damped(seen.T @ seen)
    wide, narrow = (round_compensated(weight, moments, Blocks(8, 32, True, kind)) for kind in ("fp32", "fp16"))
    assert np.array_equal(narrow.scales.astype(np.float16).astype(np.float32), narrow.scales)
    assert not np.array_equal(wide.scales, narrow.scales)
    lost = [float(np.square(seen @ (one.values() - weight)).sum()) for one in (wide, narrow)]
    assert lost[1] <= 1.1 * lost[0]


def test_scales_that_two_bytes_cannot_hold_stay_finite_and_not_zero() -> None:
    stored = stored_scales(np.array([1e-12, -1e9, 0.5], np.float32), Blocks(4, 32, True, "fp16"))
    assert np.isfinite(stored).all()
    assert stored.all()
    assert (stored[1], stored[2]) == (-65504, 0.5)


def test_inputs_that_never_occur_and_weights_of_zero_are_no_trouble() -> None:
    weight, seen = correlated(64, 1)
    seen[:, 10:20] = 0
    weight[:, 3] = 0
    weight[:32, 4] = 0
    found = round_compensated(weight, damped(seen.T @ seen), Blocks(4, 32, False, "fp32"))
    assert np.isfinite(found.values()).all()
    assert not found.values()[:, 3].any()
