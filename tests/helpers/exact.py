"""Ladders whose batches give the bits of single positions."""

from __future__ import annotations

import pytest

from balcony_edge.bundle.folder import Bundle
from balcony_edge.control.profile import batching_is_bit_exact
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime


def exact_ladder(bundle: Bundle) -> Ladder:
    """The bundle's ladder on the CPU, padded where this machine's kernels want it; skips where no form is bit-exact."""
    ladder = Ladder(bundle, Runtime.start("cpu"))
    ladder.padded = not batching_is_bit_exact(ladder)
    if not batching_is_bit_exact(ladder):
        pytest.skip("no form of these kernels is bit-exact on this machine")
    return ladder
