"""The same bundles on two kinds of processor: what is equal, and what is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arm.handed import ANSWERS, compared
from benchmarks import machines

FLOAT_EXACT = 1e-4


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, float]]:
    """This machine's answers beside another's, by precision."""
    folder = Path(os.environ.get("BALCONY_MADE", ""))
    if not (folder / ANSWERS).is_file():
        pytest.skip("no other machine's answers are here: make test-arm has them")
    bundles = compared(folder)
    return dict(zip(bundles, machines.compare(folder / ANSWERS, list(bundles.values())), strict=True))


def test_fp32_gives_the_same_tokens(rows: dict[str, dict[str, float]]) -> None:
    assert rows["fp32"]["largest_difference"] < FLOAT_EXACT
    assert rows["fp32"]["same_tokens"] == rows["fp32"]["tokens"]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_rounded_activations_give_nearly_the_same(rows: dict[str, dict[str, float]], precision: str) -> None:
    """Kernels of int8 and int4 round activations to 8 bits, each processor's in its own way."""
    assert rows[precision]["same_tokens"] >= 0.9 * rows[precision]["tokens"]
