"""What the base gives for the training rows, kept on disk: a row is run through the base once and read from then on.

For each row: the hidden states at every split in bf16, and the likeliest tokens with their shares (see likeliest.py).
The files are memory maps of a fixed size. A row counts as kept once its checksum is written, so an interrupted run goes
on with what it has, and a damaged row is made again.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from balcony_edge.errors import BalconyError
from balcony_edge.files.writing import write_whole
from balcony_export.training.likeliest import Likeliest
from balcony_export.training.losses import TOP_K

NAME = "states.json"
Map = npt.NDArray[Any]


class RowStates(NamedTuple):
    """What the base gives for one row, on the CPU and as it is kept, whether or not it is."""

    hidden: dict[int, Tensor]
    """By split, bf16 [length, hidden]."""
    tokens: Tensor
    """The likeliest tokens at the counted positions, int32 [counted, K]."""
    shares: Tensor
    """Their shares, fp16 [counted, K]."""

    @classmethod
    def of(cls, hidden: Mapping[int, Tensor], target: Likeliest) -> RowStates:
        """The states of hidden states [length, hidden] by split, and the target at the counted positions."""
        kept = {split: states.to(torch.bfloat16).cpu() for split, states in hidden.items()}
        return cls(kept, target.tokens.int().cpu(), target.shares.half().cpu())


class KeptStates:
    """The states of as many of ``rows`` rows of ``length`` tokens as fit ``limit_bytes``, in ``folder``.

    ``identity``: base, precision and text that they are of. States of another identity are replaced. Raises
    BalconyError if the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        splits: Sequence[int],
        rows: int,
        length: int,
        hidden: int,
        limit_bytes: int,
    ) -> None:
        self._splits = tuple(splits)
        a_row = row_bytes(len(self._splits), length, hidden)
        self.rows = min(rows, limit_bytes // a_row)
        described = {**identity, "splits": list(splits), "length": length, "hidden": hidden, "rows": self.rows}
        shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
            f"hidden-{split}": (np.uint16, (hidden,)) for split in self._splits
        }
        shapes |= {"tokens": (np.int32, (TOP_K,)), "shares": (np.float16, (TOP_K,))}
        try:
            fresh = _prepare(folder, described)
            self._maps: dict[str, Map] = {
                name: _map(folder / f"{name}.bin", fresh, kind, (self.rows, length, *shape))
                for name, (kind, shape) in shapes.items()
            }
            self._counts: Map = _map(folder / "counts.bin", fresh, np.int32, (self.rows,))
            self._sums: Map = _map(folder / "checksums.bin", fresh, np.uint32, (self.rows,))
        except (OSError, ValueError) as error:
            raise BalconyError(
                f"cannot keep the base's states in {folder}: {error}",
                f"free {rows * a_row / 1e9:.1f} GB, give a smaller --cache-states, or --cache-states 0",
            ) from error
        # Rows whose checksum was compared in this process.
        self._checked = np.zeros(self.rows, np.bool_)

    @property
    def bytes(self) -> int:
        """How large the files are."""
        return sum(held.nbytes for held in self._maps.values())

    def read(self, row: int) -> RowStates | None:
        """A row's states; None if they are not kept, or damaged."""
        if row >= self.rows or not self._sums[row]:
            return None
        if not self._checked[row]:
            self._checked[row] = self._sum(row) == self._sums[row]
            if not self._checked[row]:
                return None
        count = int(self._counts[row])
        return RowStates(
            {
                split: torch.from_numpy(self._maps[f"hidden-{split}"][row]).view(torch.bfloat16)
                for split in self._splits
            },
            torch.from_numpy(self._maps["tokens"][row, :count]),
            torch.from_numpy(self._maps["shares"][row, :count]),
        )

    def write(self, row: int, states: RowStates) -> None:
        """Keep a row's states, if it is one of those that there is room for."""
        if row >= self.rows:
            return
        self._sums[row] = 0
        for split in self._splits:
            self._maps[f"hidden-{split}"][row] = states.hidden[split].view(torch.uint16).numpy()
        count, likeliest = states.tokens.shape
        for name, found in (("tokens", states.tokens), ("shares", states.shares)):
            self._maps[name][row] = 0
            self._maps[name][row, :count, :likeliest] = found.numpy()
        self._counts[row] = count
        self._sums[row] = self._sum(row)
        self._checked[row] = True

    def _sum(self, row: int) -> int:
        total = int(self._counts[row])
        for held in self._maps.values():
            total = zlib.crc32(held[row].tobytes(), total)
        return total or 1


def row_bytes(splits: int, length: int, hidden: int) -> int:
    """How much one row takes on disk."""
    return length * (2 * splits * hidden + (4 + 2) * TOP_K)


def _prepare(folder: Path, described: Mapping[str, Any]) -> bool:
    """Whether the files must be made anew: there are none, or they are of something else."""
    folder.mkdir(parents=True, exist_ok=True)
    text, path = json.dumps(dict(described)), folder / NAME
    if path.exists() and path.read_text() == text:
        return False
    for old in folder.glob("*.bin"):
        old.unlink()
    write_whole(path, text.encode())
    return True


def _map(path: Path, fresh: bool, kind: Any, shape: tuple[int, ...]) -> Map:
    if not shape[0]:
        return np.zeros(shape, kind)
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    if fresh or not path.exists() or path.stat().st_size != size:
        with path.open("wb") as stream:
            stream.truncate(size)
    return np.memmap(path, kind, "r+", shape=shape)
