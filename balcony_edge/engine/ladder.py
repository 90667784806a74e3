"""The ladder of stages: the trunk's segments, the exits that hang from its splits, and the one head they share.

One rule does everything: to advance a stage to a position, first advance the stage below it, then feed it all positions
that it lacks in one batched call. That is prefill, decoding, catch-up of skipped layers and verification of drafts.
Nothing is computed before a token needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from balcony_controller.shape import HEAD
from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import Graph
from balcony_edge.engine.answers import Answers
from balcony_edge.engine.caller import AttentionLengths
from balcony_edge.engine.draft_stage import DraftStage, Guess
from balcony_edge.engine.footprint import Footprint, available_bytes
from balcony_edge.engine.memory import Buffer
from balcony_edge.engine.pages.mapped import release_pages
from balcony_edge.engine.runtime import Runtime
from balcony_edge.engine.sampling import Logits, check_finite
from balcony_edge.engine.stage import Head, Stage
from balcony_edge.errors import PromptError

# Called after each graph run with the stage's name, the number of positions and the milliseconds it took.
Observer = Callable[[str, int, float], None]


class Ladder:
    """The token sequence of one conversation, and how far each stage has consumed it.

    The logits of a depth depend on the tokens alone, whatever was run before (tested over random schedules).

    Attributes:
        length: tokens in the sequence; ``context`` is the most that it may have.
        depths: the depths that can give logits, in base layers, ascending; ``full`` is the last one.
        vocabulary: size of the vocabulary V.
        observer: called after each graph run, if it is set.
        digest: the bundle's digest.
        trunk, exits: the stages; ``exits`` by depth. ``stages`` are all of them, the trunk first.
        drafter: the draft stage; None if the bundle has none.

    Raises:
        BundleError: a graph cannot be loaded, or the weights do not fit into memory.
        ProviderError: the bundle was built for another provider or a newer ONNX Runtime.
    """

    # Buffers grow by at least this many positions, or by half their size.
    BLOCK = 256

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime,
        max_context: int | None = None,
        graphs: Mapping[str, Any] | None = None,
    ) -> None:
        """``graphs``: those of another ladder of this bundle (see ``another``); None: they are loaded."""
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
        if graphs is None:
            self.footprint.check_weights(str(bundle.path), available_bytes())
        self._room = min(self.context, self.BLOCK)
        self.footprint.check_positions(self._room, available_bytes())
        if graphs is None:
            graphs = {graph.file: runtime.graph(bundle, graph) for graph in manifest.graphs}
        self._loaded = bundle, runtime, graphs
        self._padded = False
        self._ids = Buffer((1, self._room), np.int64)
        lengths = AttentionLengths(runtime.provider)

        def stage(graph: Graph, source: Buffer) -> Stage:
            session = graphs[graph.file]
            return Stage(session, graph, arch, manifest.formats, source, lengths, self._room, runtime.provider)

        self.trunk: list[Stage] = []
        source = self._ids
        for graph in manifest.segments:
            self.trunk.append(stage(graph, source))
            source = self.trunk[-1].outputs
        below = {item.graph.stop: self.trunk[: index + 1] for index, item in enumerate(self.trunk)}
        self.exits = {graph.stop: stage(graph, below[graph.stop][-1].outputs) for graph in manifest.exits}
        # The stages that must run for the hidden states at a depth, from the bottom up.
        self._paths = {split: [*below[split], item] for split, item in self.exits.items()} | {self.full: self.trunk}
        tops = [self.trunk[-1].outputs, *(item.outputs for item in self.exits.values())]
        self.stages = [*self.trunk, *self.exits.values()]
        self.drafter: DraftStage | None = None
        if (drafting := manifest.draft) is not None:
            self.drafter = DraftStage(
                graphs[drafting.file],
                drafting,
                arch,
                manifest.formats,
                self._ids,
                self.trunk[-1].outputs,
                lengths,
                self._room,
                runtime.provider,
            )
            self.stages.append(self.drafter)
        self._head = Head(graphs[manifest.head.file], arch.vocabulary, tops)
        release_pages(bundle.path)

    def another(self) -> Ladder:
        """Another ladder over the same weights, which are in memory once. Tokens and caches are its own.

        Two ladders must not run at the same time. Raises PromptError if memory for its caches is not free.
        """
        bundle, runtime, graphs = self._loaded
        found = Ladder(bundle, runtime, self.context, graphs)
        found.padded = self.padded
        return found

    @property
    def tokens(self) -> list[int]:
        """The token ids of the sequence."""
        return [int(token) for token in self._ids.host()[0, : self.length]]

    def append(self, ids: Sequence[int]) -> None:
        """Add tokens to the sequence; nothing runs yet. Raises PromptError if they do not fit the context."""
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
        """Remove the tokens from position ``to`` on. Only cursors move: the bytes in the caches no longer count.

        Raises ValueError for a position outside the sequence.
        """
        if not 0 <= to <= self.length:
            raise ValueError(f"cannot rewind {self.length} tokens to {to}")
        if to == self.length:
            return
        self.length = to
        for stage in self.stages:
            stage.cursor = max(0, min(stage.cursor, to - stage.ahead))

    def resume(self, ids: Sequence[int]) -> int:
        """Make ``ids`` the whole sequence. What it shares with the present one keeps its caches.

        Returns the number of shared tokens. Raises PromptError if ``ids`` do not fit the context.
        """
        shared = self.shared_with(ids)
        self.rewind(shared)
        self.append(ids[shared:])
        return shared

    def shared_with(self, ids: Sequence[int]) -> int:
        """How many tokens at the beginning of ``ids`` are those of the sequence, so that the caches hold them."""
        known = self._ids.host()[0, : self.length]
        count = min(len(ids), len(known))
        differing = np.flatnonzero(known[:count] != np.asarray(ids[:count], np.int64))
        return int(differing[0]) if len(differing) else count

    def check_memory(self, length: int) -> None:
        """Raise PromptError if memory for a sequence of ``length`` tokens is not free."""
        self.footprint.check_positions(length - self._room, available_bytes())

    @property
    def padded(self) -> bool:
        """Whether a single position runs as two, so that it gets the bits of a batch (see Caller)."""
        return self._padded

    @padded.setter
    def padded(self, padded: bool) -> None:
        if padded != self._padded:
            self._padded = padded
            self._connect()

    def gate(self, split: int) -> float | None:
        """The gate's logit of the exit at ``split`` for the last token; None without a gate.

        The exit must have consumed that token. Raises BundleError if the logit is not finite.
        """
        gates = self.exits[split].gates
        if gates is None:
            return None
        logit = float(gates.host()[0, self.length - 1, 0])
        check_finite(logit)
        return logit

    def draft(self, split: int) -> int | None:
        """The gate draft of the exit at ``split``; None if its gate gives none.

        It is the likeliest next token among the frequent ones whose rows of the head the gate reads.
        """
        drafts = self.exits[split].drafts
        return None if drafts is None else int(drafts.host()[0, self.length - 1])

    def knows_deep(self) -> bool:
        """Whether there is a draft stage, and the full depth has consumed all tokens but the last, which makes two."""
        return self.drafter is not None and 2 <= self.length <= self.trunk[-1].cursor + 1

    def guess(self, guessed: int = 0) -> Guess:
        """What the draft stage guesses after the last token, the last ``guessed`` tokens being its guesses already.

        ``knows_deep`` must have been true before these were appended.
        """
        stage = self.drafter
        assert stage is not None
        position = self.length - 2
        positions = stage.guess(position, self.length - 1 - guessed)
        if self.observer is not None:
            self.observer(stage.name, positions, stage.elapsed_ms)
        return stage.guessed

    def advance(self, depth: int, to: int) -> Stage:
        """Advance all stages of ``depth`` to position ``to``; returns the last one, whose outputs the head can read."""
        path = self._paths[depth]
        for stage in path:
            if stage.cursor < to:
                positions = stage.consume(to)
                if self.observer is not None:
                    self.observer(stage.name, positions, stage.elapsed_ms)
        return path[-1]

    def next_logits(self, depth: int) -> Logits:
        """Logits fp32 [V] after the last token, at ``depth``: a view that the head's next call overwrites."""
        row: Logits = self.logits_view(depth, self.length - 1, self.length)[0]
        return row

    def logits_view(self, depth: int, start: int, stop: int) -> Logits:
        """Logits fp32 [stop - start, V] after positions [start, stop): a view that the head's next call overwrites.

        At most Head.MAX_ROWS positions.
        """
        stage = self.advance(depth, stop)
        rows = self._head.rows(stage.outputs, start, stop)
        self._observe_head(stop - start)
        return rows

    def answers(self, depth: int, start: int, stop: int) -> Answers:
        """The likeliest tokens after positions [start, stop), at ``depth``; valid until the head's next call.

        At most Head.MAX_ROWS positions.
        """
        stage = self.advance(depth, stop)
        answers = self._head.answers(stage.outputs, start, stop)
        self._observe_head(stop - start)
        return answers

    def _observe_head(self, positions: int) -> None:
        if self.observer is not None:
            self.observer(HEAD, positions, self._head.elapsed_ms)

    def logits(self, depth: int, start: int = 0, stop: int | None = None) -> Logits:
        """Logits fp32 [stop - start, V] of any number of positions, as a copy. ``stop``: ``length`` by default.

        Raises BundleError if one of them is NaN, or no finite number is the largest of a position.
        """
        stop = self.length if stop is None else stop
        pieces = [
            self.logits_view(depth, first, min(first + Head.MAX_ROWS, stop)).copy()
            for first in range(start, stop, Head.MAX_ROWS)
        ]
        rows = np.concatenate(pieces)
        for largest in (tops := rows.max(axis=1)).min(), tops.max():
            check_finite(largest)
        return rows

    def pending(self, stage: Stage) -> int:
        """How many positions of the sequence the stage has not consumed yet."""
        return self.length - stage.cursor

    def _grow(self, length: int) -> None:
        """Make room for ``length`` positions and some more: memory follows what is used, not the whole context."""
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
