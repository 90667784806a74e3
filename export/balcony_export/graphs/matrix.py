"""A matrix made of rows of a checkpoint's tensors: of several projections as one, or of part of a packed tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from balcony_edge.bundle.manifest import Activations
from balcony_export.model.checkpoint import Array, TensorSource
from balcony_export.model.packed.numbers import Form, Numbers, PackedSource, stacked


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
        pieces = [self._source.rows(*place) for place in self._places(start, stop)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def numbers(self, start: int, stop: int) -> Numbers:
        """Rows [start, stop) as the checkpoint holds them, of a matrix that it holds in one form."""
        return stacked([self._packed.numbers(*place) for place in self._places(start, stop)])

    @property
    def form(self) -> Form | Activations:
        """How the checkpoint holds the matrix, whose rows are all held in the same form (see ``by_form``)."""
        return self._packed.form(self._parts[0].name)

    def by_form(self) -> list[Matrix]:
        """The matrix cut, from top to bottom, where the checkpoint goes over to another form."""
        runs: list[list[RowRange]] = []
        last: Form | Activations | None = None
        for part in self._parts:
            found = self._packed.form(part.name)
            if found != last:
                runs.append([])
            runs[-1].append(part)
            last = found
        return [Matrix(self._source, run, self.shape[1:]) for run in runs]

    @property
    def _packed(self) -> PackedSource:
        assert isinstance(self._source, PackedSource), "only a checkpoint's weights are kept, no exits'"
        return self._source

    def _places(self, start: int, stop: int) -> list[tuple[str, int, int]]:
        """Where rows [start, stop) lie: tensors and ranges of their rows."""
        places = []
        first = 0
        for part in self._parts:
            low, high = max(start - first, 0), min(stop - first, part.stop - part.start)
            if low < high:
                places.append((part.name, part.start + low, part.start + high))
            first += part.stop - part.start
        return places
