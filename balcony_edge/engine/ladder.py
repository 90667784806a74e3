"""The ladder: the trunk's segments, the exits that hang from its splits, and the one head they share.

One rule is prefill, decoding, catch-up and verification: to advance a stage to a position, first advance the stage
below it, then feed all missing positions in one batched call. Nothing is computed before a token needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from balcony_controller.shape import HEAD
from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import Graph
from balcony_edge.engine.answers import Answers
from balcony_edge.engine.caller import Control
from balcony_edge.engine.footprint import Footprint, available_bytes
from balcony_edge.engine.mapped import drop_pages
from balcony_edge.engine.memory import Buffer
from balcony_edge.engine.runtime import Runtime
from balcony_edge.engine.sampling import Logits
from balcony_edge.engine.stage import Head, Stage
from balcony_edge.errors import PromptError

# Called after each graph run with the stage's name, the number of positions and the elapsed milliseconds.
Observer = Callable[[str, int, float], None]


class Ladder:
    """The token sequence of one conversation and every stage's progress along it.

    Invariants (tested over random schedules): the full depth's logits depend on the tokens alone, whatever was run
    before; so do each exit's. ``length`` tokens are known; ``depths`` are the depths that can give logits.
    """

    # Buffers grow by so many positions, or by half of what they hold.
    BLOCK = 256

    def __init__(self, bundle: Bundle, runtime: Runtime, max_context: int | None = None) -> None:
        manifest = bundle.manifest
        arch = manifest.architecture
        self.context = min(max_context or arch.context, arch.context)
        self.depths = bundle.depths
        self.vocabulary = arch.vocabulary
        self.full = arch.layers
        self.length = 0
        self.observer: Observer | None = None
        self.digest = manifest.digest
        self.footprint = Footprint.of(manifest)
        self.footprint.check_weights(str(bundle.path), available_bytes())
        self._room = min(self.context, self.BLOCK)
        self._padded = False
        self._ids = Buffer((1, self._room), np.int64)
        control = Control(runtime.provider)

        def stage(graph: Graph, source: Buffer) -> Stage:
            session = runtime.graph(bundle, graph)
            return Stage(session, graph, arch, manifest.formats, source, control, self._room, runtime.provider)

        self.trunk: list[Stage] = []
        source = self._ids
        for graph in manifest.segments:
            self.trunk.append(stage(graph, source))
            source = self.trunk[-1].outputs
        below = {item.graph.stop: self.trunk[: index + 1] for index, item in enumerate(self.trunk)}
        self.exits = {graph.stop: stage(graph, below[graph.stop][-1].outputs) for graph in manifest.exits}
        # What must run for the normed hidden states at a depth, from the bottom up.
        self._paths = {split: [*below[split], item] for split, item in self.exits.items()} | {self.full: self.trunk}
        tops = [self.trunk[-1].outputs, *(item.outputs for item in self.exits.values())]
        self.stages = [*self.trunk, *self.exits.values()]
        """Every stage, the trunk first."""
        self._head = Head(runtime.graph(bundle, manifest.head), arch.vocabulary, tops)
        drop_pages(bundle.path)

    @property
    def tokens(self) -> list[int]:
        """The token ids so far."""
        return [int(token) for token in self._ids.host()[0, : self.length]]

    def append(self, ids: Sequence[int]) -> None:
        """Add tokens; nothing runs yet. Raises PromptError when the context is full."""
        if self.length + len(ids) > self.context:
            raise PromptError(
                f"{self.length + len(ids)} tokens do not fit the context of {self.context}",
                "shorten the prompt, or ask for fewer tokens",
            )
        if self.length + len(ids) > self._room:
            self._grow(self.length + len(ids))
        self._ids.host()[0, self.length : self.length + len(ids)] = ids
        self.length += len(ids)

    def rewind(self, to: int) -> None:
        """Forget the tokens from position ``to`` on. Caches keep their bytes; cursors say what still counts."""
        if not 0 <= to <= self.length:
            raise ValueError(f"cannot rewind {self.length} tokens to {to}")
        if to == self.length:
            return
        self.length = to
        for stage in self.stages:
            stage.cursor = min(stage.cursor, to)

    def resume(self, ids: Sequence[int]) -> int:
        """Take ``ids`` for the whole sequence; returns how many of them stood there already and keep their caches."""
        known = self._ids.host()[0, : self.length]
        count = min(len(ids), len(known))
        differing = np.flatnonzero(known[:count] != np.asarray(ids[:count], np.int64))
        shared = int(differing[0]) if len(differing) else count
        self.rewind(shared)
        self.append(ids[shared:])
        return shared

    def expect(self, length: int) -> None:
        """The sequence may grow to ``length``: raises PromptError now where memory for that is not free."""
        self.footprint.check_positions(length - self._room, available_bytes())

    @property
    def padded(self) -> bool:
        """Whether single positions run as two, for the bits that several give (see Caller)."""
        return self._padded

    @padded.setter
    def padded(self, padded: bool) -> None:
        if padded != self._padded:
            self._padded = padded
            self._connect()

    def gate(self, split: int) -> float | None:
        """The logit of an exit's gate for the last token, which the exit must have consumed; None without a gate."""
        gates = self.exits[split].gates
        return None if gates is None else float(gates.host()[0, self.length - 1, 0])

    def draft(self, split: int) -> int | None:
        """The likeliest next token among those that an exit's gate looks at; None where the gate gives none."""
        drafts = self.exits[split].drafts
        return None if drafts is None else int(drafts.host()[0, self.length - 1])

    def outputs(self, depth: int, to: int) -> Stage:
        """The stage that gives the normed hidden states of ``depth``, advanced to position ``to``."""
        path = self._paths[depth]
        for stage in path:
            if stage.cursor < to:
                positions = stage.consume(to)
                if self.observer is not None:
                    self.observer(stage.name, positions, stage.elapsed_ms)
        return path[-1]

    def next_logits(self, depth: int) -> Logits:
        """Logits [V] after the last token, at ``depth``: a view that the next call overwrites."""
        row: Logits = self.logits_view(depth, self.length - 1, self.length)[0]
        return row

    def logits_view(self, depth: int, start: int, stop: int) -> Logits:
        """Logits [stop - start, V] of at most Head.MAX_ROWS positions: a view that the next call overwrites."""
        stage = self.outputs(depth, stop)
        rows = self._head.rows(stage.outputs, start, stop)
        self._observe_head(stop - start)
        return rows

    def answers(self, depth: int, start: int, stop: int) -> Answers:
        """The likeliest tokens after at most Head.MAX_ROWS positions, at ``depth``, until the next call of the head."""
        stage = self.outputs(depth, stop)
        answers = self._head.answers(stage.outputs, start, stop)
        self._observe_head(stop - start)
        return answers

    def _observe_head(self, positions: int) -> None:
        if self.observer is not None:
            self.observer(HEAD, positions, self._head.elapsed_ms)

    def logits(self, depth: int, start: int = 0, stop: int | None = None) -> Logits:
        """Logits fp32 [stop - start, V] of any number of positions, copied."""
        stop = self.length if stop is None else stop
        pieces = [
            self.logits_view(depth, first, min(first + Head.MAX_ROWS, stop)).copy()
            for first in range(start, stop, Head.MAX_ROWS)
        ]
        return np.concatenate(pieces)

    def pending(self, stage: Stage) -> int:
        """How many positions the stage would consume to reach the last token."""
        return self.length - stage.cursor

    def _grow(self, length: int) -> None:
        """Room for ``length`` positions and some more: memory follows what is used, not what the context allows."""
        room = max(length, self._room + max(self.BLOCK, self._room // 2))
        self._room = min(self.context, -(-room // self.BLOCK) * self.BLOCK)
        self._ids.resize(self._room, self.length)
        for stage in self.stages:
            stage.resize(self._room)
        self._connect()

    def _connect(self) -> None:
        for stage in self.stages:
            stage.connect(self._padded)
        self._head.connect(self._padded)
