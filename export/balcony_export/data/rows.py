"""Rows of tokens of one length, as training and measuring take them in: pieces of a text, or whole documents packed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from balcony_export.data.corpus import Tokens, sequences

# Stands for the next token where there is none: at the end of a document.
NO_TARGET = -1

Flags = npt.NDArray[np.bool_]
# A document goes into the fullest of so many open rows that still has room.
OPEN_ROWS = 64


@dataclass(frozen=True)
class Rows:
    """``tokens`` and ``positions``, int64 [rows, length], and ``counted``, bool [rows, length].

    Positions begin at 0 again where another document begins, which then does not see the one before. ``counted``: the
    positions that exits learn from and are measured at; the others are prompts and filling.
    """

    tokens: Tokens
    positions: Tokens
    counted: Flags

    @classmethod
    def of_stream(cls, stream: Tokens, length: int) -> Rows:
        """A text cut into rows, every position counted. What is left at the end is dropped."""
        tokens = sequences(stream, length)
        positions = np.tile(np.arange(length), (len(tokens), 1))
        return cls(tokens, positions, np.ones(tokens.shape, np.bool_))

    @classmethod
    def of_documents(cls, documents: Sequence[tuple[Sequence[int], int]], length: int) -> Rows:
        """Documents, each as its ids and how many of them were given, packed into rows; none is cut unless longer.

        Counted are the positions whose next token is the document's own.
        """
        order = sorted(range(len(documents)), key=lambda index: -len(documents[index][0]))
        rows: list[list[int]] = []
        opened: list[tuple[int, list[int]]] = []  # room and documents of a row
        for index in order:
            size = min(length, len(documents[index][0]))
            fitting = [place for place, (room, _) in enumerate(opened) if room >= size]
            if fitting:
                best = min(fitting, key=lambda place: opened[place][0])
                room, held = opened.pop(best)
                held.append(index)
                opened.append((room - size, held))
            else:
                opened.append((length - size, [index]))
            if len(opened) > OPEN_ROWS:
                fullest = min(range(len(opened)), key=lambda place: opened[place][0])
                rows.append(opened.pop(fullest)[1])
        rows += [held for _, held in opened]
        shape = len(rows), length
        tokens, positions, counted = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
        for row, held in enumerate(rows):
            at = 0
            for index in held:
                ids, given = documents[index]
                size = min(length - at, len(ids))
                tokens[row, at : at + size] = ids[:size]
                positions[row, at : at + size] = np.arange(size)
                counted[row, at + max(0, given - 1) : at + size - 1] = True
                at += size
            # Filling is a document of its own.
            positions[row, at:] = np.arange(length - at)
        return cls(tokens, positions, counted)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Any) -> Rows:
        """Some of the rows, by a slice or by indices."""
        return Rows(self.tokens[rows], self.positions[rows], self.counted[rows])

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """(tokens, positions, counted) as tensors on ``device``."""
        tokens, positions, counted = (
            torch.from_numpy(np.ascontiguousarray(part)).to(device)
            for part in (self.tokens, self.positions, self.counted)
        )
        return tokens, positions, counted

    @property
    def length(self) -> int:
        """Tokens a row."""
        return int(self.tokens.shape[1])

    @property
    def digest(self) -> str:
        """SHA-256 of everything in them."""
        parts = (np.ascontiguousarray(part).tobytes() for part in (self.tokens, self.positions, self.counted))
        return hashlib.sha256(b"".join(parts)).hexdigest()

    @property
    def following(self) -> Tokens:
        """The next token at each position, int64 [rows, length]; NO_TARGET where a document or row ends."""
        following = np.full(self.tokens.shape, NO_TARGET, np.int64)
        goes_on = self.positions[:, 1:] > 0
        following[:, :-1] = np.where(goes_on, self.tokens[:, 1:], NO_TARGET)
        return following

    @property
    def begins(self) -> Flags:
        """Whether a position is the first counted one of its document, bool [rows, length]."""
        begins = self.counted.copy()
        begins[:, 1:] &= ~(self.counted[:, :-1] & (self.positions[:, 1:] > 0))
        return begins

    def token_counts(self, vocabulary: int) -> Tokens:
        """How often each token is to be predicted at the counted positions, int64 [vocabulary]."""
        following = self.following[self.counted]
        return np.bincount(following[following != NO_TARGET], minlength=vocabulary)

    def spread(self, count: int) -> Rows:
        """``count`` of the rows, spread evenly; all if there are no more."""
        return self if len(self) <= count else self[np.linspace(0, len(self) - 1, count).astype(int)]


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all ``parts``, which have one length."""
    tokens, positions, counted = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("tokens", "positions", "counted")
    )
    return Rows(tokens, positions, counted)


class RowOrder:
    """Which rows each training step takes: all rows once, in a new order, then again.

    It depends on ``seed`` alone, so a resumed run sees what an uninterrupted one would see.
    """

    def __init__(self, rows: int, a_step: int, seed: int) -> None:
        self._rows, self._a_step, self._seed = rows, a_step, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __call__(self, step: int) -> npt.NDArray[np.int64]:
        """The indices of the rows of ``step``, int64 [a_step]."""
        places = np.arange(step * self._a_step, (step + 1) * self._a_step)
        return np.array([self._at(*divmod(int(place), self._rows)) for place in places], np.int64)

    def _at(self, epoch: int, place: int) -> int:
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self._seed, epoch)).permutation(self._rows)
        return int(self._order[place])
