"""The quantiser of a calibrated bundle: matrices of the base as they were rounded before, kept in files until then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_export.graphs.matrix import Matrix
from balcony_export.graphs.quantiser import Nearest, Quantiser
from balcony_export.graphs.rounding import Blocks
from balcony_export.quantising.forms import SCALES


class Calibrated:
    """Gives each matrix in the blocks that were chosen for it. Others, such as head and exits, are left to ``others``.

    ``folder`` keeps the rounded matrices: they would take as much memory as the bundle's weights.
    """

    rounding = "calibrated"

    def __init__(
        self, forms: Mapping[str, Blocks], folder: Path | None = None, others: Quantiser | None = None
    ) -> None:
        self.forms = dict(forms)
        self._folder = folder
        self._others = others or Nearest()

    def keep(self, name: str, blocks: Blocks, tensors: Sequence[npt.NDArray[Any]]) -> None:
        """Keep a rounded matrix."""
        assert self._folder is not None
        assert blocks == self.forms[name]
        for index, tensor in enumerate(tensors):
            np.save(self._file(name, index), tensor)

    def held(self, name: str, weight: Matrix, usual: Blocks) -> Blocks:
        """The blocks that were chosen for the matrix, else those of the others, their scales narrowed too."""
        if name in self.forms:
            return self.forms[name]
        return replace(self._others.held(name, weight, usual), scales=SCALES)

    def rows(self, name: str, weight: Matrix, blocks: Blocks, start: int, stop: int) -> Sequence[npt.NDArray[Any]]:
        """The rows as they were rounded."""
        if name not in self.forms:
            return self._others.rows(name, weight, blocks, start, stop)
        count = 2 if blocks.symmetric else 3
        return [np.load(self._file(name, index), mmap_mode="r")[start:stop] for index in range(count)]

    def _file(self, name: str, index: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{name}.{index}.npy"
