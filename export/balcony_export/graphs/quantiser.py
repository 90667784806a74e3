"""How each quantised matrix of a bundle is held, and who gives its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt

from balcony_export.graphs.matrix import Matrix
from balcony_export.graphs.rounding import Blocks, round_blocks


class Quantiser(Protocol):
    """Decides the blocks of each linear weight, and quantises it a range of rows at a time.

    ``name`` is the matrix's name in the graphs, such as "model.layers.0.attn.qkv_proj", "lm_head" or "peek".
    """

    rounding: str
    """The word for it in a bundle's recipe (see Recipe in balcony_edge)."""

    def held(self, name: str, weight: Matrix, usual: Blocks) -> Blocks:
        """How the matrix is held. ``usual``: what the bundle's formats ask for. Reads no weights."""
        ...

    def rows(self, name: str, weight: Matrix, blocks: Blocks, start: int, stop: int) -> Sequence[npt.NDArray[Any]]:
        """Rows [start, stop) of the matrix in ``blocks``, as ``rounding.round_blocks`` returns them."""
        ...


class Nearest:
    """Every matrix in the usual blocks, each weight rounded by itself."""

    rounding = "nearest"

    def held(self, name: str, weight: Matrix, usual: Blocks) -> Blocks:
        """The usual blocks."""
        return usual

    def rows(self, name: str, weight: Matrix, blocks: Blocks, start: int, stop: int) -> Sequence[npt.NDArray[Any]]:
        """The rows, rounded."""
        return round_blocks(weight.rows(start, stop), blocks)
