"""The draft stage: it guesses tokens from what the full model knew at the last position.

Position i of it reads the full depth's normed hidden state of position i, and token i + 1; it guesses token i + 2, and
its own output stands for the hidden state of position i + 1, which the full depth has not computed yet. So it can guess
several tokens in a row, each from its own output of the guess before (EAGLE, arXiv 2401.15077).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from balcony_edge.bundle.manifest import Architecture, Formats, Graph
from balcony_edge.engine.caller import AttentionLengths, Caller
from balcony_edge.engine.memory import Buffer
from balcony_edge.engine.stage import Stage


class Guess(NamedTuple):
    """A token, and its log-probability among those that drafts can be."""

    token: int
    top: float


class DraftStage(Stage):
    """The graph of kind "draft". Its ``cursor`` counts the positions that it has read true hidden states of.

    ``ids``: token ids int64 [1, room]. ``deep``: the hidden states of the full depth. See Stage for the others.
    """

    ahead = 1

    def __init__(
        self,
        session: Any,
        graph: Graph,
        arch: Architecture,
        formats: Formats,
        ids: Buffer,
        deep: Buffer,
        lengths: AttentionLengths,
        room: int,
        device: str = "cpu",
    ) -> None:
        self._ids = ids
        self._given = {"guess": Buffer((1, 1), np.int64), "guess_top": Buffer((1, 1), np.float32)}
        # One position beyond the last that was guessed.
        self._end = 0
        super().__init__(session, graph, arch, formats, deep, lengths, room, device)

    def connect(self, padded: bool = False) -> None:
        """Bind the graph to the buffers at their present addresses. Nothing here must be bit-exact: no padding."""
        lengths, past, present = self._fixed()
        fixed = present | self._given

        def call(hidden: Buffer, shift: int) -> Caller:
            inputs = {"hidden": hidden, "input_ids": self._ids}
            shifts = {"hidden": shift, "input_ids": 1}
            return Caller(self._session, inputs, {"hidden_out": self.outputs}, lengths | past, fixed, shifts=shifts)

        self._call, self._guess = call(self._source, 0), call(self.outputs, -1)

    def guess(self, position: int, known: int) -> int:
        """Bring the stage to ``position``: from true hidden states where these reach, ``known`` of them in all.

        Otherwise from the output at the position before, which must be there. Returns how many positions were run.
        """
        start = min(self.cursor, position) if position < known else position
        self._lengths.set(start, position + 1)
        if position < known:
            self._call(start, position + 1)
            self.cursor, self.elapsed_ms = position + 1, self._call.elapsed_ms
        else:
            self._guess(position, position + 1)
            self.elapsed_ms = self._guess.elapsed_ms
        self._end = position + 1
        return position + 1 - start

    @property
    def guessed(self) -> Guess:
        """What it guessed in the last call."""
        token, top = (buffer.host()[0, 0] for buffer in self._given.values())
        return Guess(int(token), float(top))

    @property
    def _kept(self) -> int:
        return max(self.cursor, self._end)
