"""A matrix made of rows of a checkpoint's tensors: of several projections as one, or of part of a packed tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from balcony_export.model.checkpoint import Array, TensorSource


@dataclass(frozen=True)
class RowRange:
    """Rows [start, stop) of the tensor ``name``."""

    name: str
    start: int
    stop: int


def row_ranges(name: str, rows: Sequence[int]) -> list[RowRange]:
    """Ascending ``rows`` of one tensor as ranges; neighbouring rows are one range, to be read together."""
    parts: list[RowRange] = []
    for row in rows:
        if parts and parts[-1].stop == row:
            parts[-1] = RowRange(name, parts[-1].start, row + 1)
        else:
            parts.append(RowRange(name, row, row + 1))
    return parts


class Matrix:
    """A weight [out, in] or a bias [out], put together from ranges of rows of a source's tensors and read on demand.

    ``columns``: the shape of one row, (in,) or ().
    """

    def __init__(self, source: TensorSource, parts: list[RowRange], columns: tuple[int, ...]) -> None:
        self._source = source
        self._parts = parts
        self.shape = (sum(part.stop - part.start for part in parts), *columns)

    def rows(self, start: int, stop: int) -> Array:
        """Rows [start, stop) of the matrix, fp32."""
        pieces = []
        first = 0
        for part in self._parts:
            low, high = max(start - first, 0), min(stop - first, part.stop - part.start)
            if low < high:
                pieces.append(self._source.rows(part.name, part.start + low, part.start + high))
            first += part.stop - part.start
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
