"""The numbers of a quantised weight as its checkpoint holds them: whole levels, scales, and where zero lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from balcony_edge.bundle.manifest import Activations

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Where zero lies among the levels of a block: in their middle, at a level of the block's own, or the block has a
# minimum that is added.
Zero = Literal["middle", "level", "minimum"]


@dataclass(frozen=True)
class Form:
    """How a checkpoint holds a quantised matrix. A weight is scale · (level - zero), or scale · level + minimum."""

    kind: str
    """What the type is called, such as Q4_0."""
    bits: int
    """Of a level: 4 or 8. Types of other widths are widened to these, which changes no weight."""
    block: int
    """How many inputs of a row share a scale."""
    zero: Zero = "middle"
    half: bool = True
    """Whether the scales are fp16 numbers. Otherwise they are fp32."""
    order: tuple[int, ...] | None = None
    """The inputs in the order in which the levels are held (GPTQ's act-order); None: as they come."""


@dataclass(frozen=True)
class Numbers:
    """Some rows of a quantised matrix [out, in], in a form."""

    form: Form
    levels: Bytes
    """[rows, in], in the form's order; the middle is 8 of 4 bits, 128 of 8."""
    scales: Floats
    """[rows, blocks]."""
    zeros: Bytes | Floats | None = None
    """[rows, blocks]: the level of zero (uint8), or the minimum (fp32); None where zero is the middle."""

    @property
    def middle(self) -> int:
        """The level in the middle."""
        return 1 << (self.form.bits - 1)

    def values(self) -> Floats:
        """The weights, fp32 [rows, in], by the same operations in fp32 as the checkpoint's own library."""
        rows, inputs = self.levels.shape
        values = self.levels.reshape(rows, self.scales.shape[1], -1).astype(np.float32)
        if self.form.zero == "minimum":
            assert self.zeros is not None
            values *= self.scales[..., None]
            values += self.zeros[..., None]
        else:
            values -= np.float32(self.middle) if self.zeros is None else self.zeros[..., None].astype(np.float32)
            values *= self.scales[..., None]
        held: Floats = values.reshape(rows, inputs)
        if self.form.order is None:
            return held
        plain = np.empty_like(held)
        plain[:, list(self.form.order)] = held
        return plain


@runtime_checkable
class PackedSource(Protocol):
    """A TensorSource that also gives the numbers of its quantised tensors."""

    def form(self, name: str) -> Form | Activations:
        """How a matrix is held: quantised in a form, or in floats of a type.

        Reads no weights. Raises ModelError for a quantised type whose numbers cannot be given.
        """
        ...

    def numbers(self, name: str, start: int, stop: int) -> Numbers:
        """Rows [start, stop) of a quantised tensor."""
        ...


def stacked(pieces: Sequence[Numbers]) -> Numbers:
    """Rows of one form, one piece below the other."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    zeros = (
        None if first.zeros is None else np.concatenate([piece.zeros for piece in pieces if piece.zeros is not None])
    )
    levels = np.concatenate([piece.levels for piece in pieces])
    return Numbers(first.form, levels, np.concatenate([piece.scales for piece in pieces]), zeros)


def bits_of(words: npt.NDArray[Any], bits: int) -> Bytes:
    """The numbers of ``bits`` bits that lie in words, the lowest first: [..., n] to uint8 [..., n · word / bits]."""
    shifts = np.arange(0, 8 * words.itemsize, bits).astype(words.dtype)
    parts = (words[..., None] >> shifts) & words.dtype.type((1 << bits) - 1)
    found: Bytes = parts.astype(np.uint8).reshape(*words.shape[:-1], -1)
    return found
