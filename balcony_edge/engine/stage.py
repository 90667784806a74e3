"""A stage: one ONNX graph that consumes positions in order, owns its KV cache and has a cursor. And the LM head."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_controller.shape import DRAFT
from balcony_edge.bundle.manifest import Architecture, Formats, Graph
from balcony_edge.engine.answers import Answers, FromHead, FromLogits
from balcony_edge.engine.caller import AttentionLengths, Caller
from balcony_edge.engine.memory import Buffer

# Extra cache slots after the last position: one for the zero row of bit-exact graphs, one for a padded position.
SPARE_SLOTS = 2


class Stage:
    """A segment or an exit of the ladder.

    To grow, all stages are resized first and then connected again, since they read each other's outputs.

    Args:
        session: the ONNX Runtime session of the graph.
        graph, arch, formats: the bundle's description of it.
        source: what the stage reads: token ids int64 [1, room], or hidden states [1, room, hidden].
        lengths: the lengths that attention needs, shared by all stages.
        room: positions that fit into its buffers.
        device: "cpu" or "cuda".

    Attributes:
        name: what timings and reports call the stage, such as "segment 0-8" or "exit 8".
        cursor: how many positions it has consumed.
        outputs: hidden states [1, room, hidden] in the bundle's activation type. An exit's, and the last segment's, are
            normed: the head can read them.
        gates: logits of an exit's gate, fp32 [1, room, 1]; None without a gate.
        drafts: gate drafts, int64 [1, room]; None where the gate gives none.
        elapsed_ms: milliseconds that the graph took in the last call.
        ahead: how many tokens beyond a position the stage reads there.
    """

    ahead = 0

    def __init__(
        self,
        session: Any,
        graph: Graph,
        arch: Architecture,
        formats: Formats,
        source: Buffer,
        lengths: AttentionLengths,
        room: int,
        device: str = "cpu",
    ) -> None:
        self.graph = graph
        self.name = stage_name(graph)
        self.cursor = 0
        self.elapsed_ms = 0.0
        self.outputs = Buffer((1, room, arch.hidden), formats.activations, device)
        self.gates = Buffer((1, room, 1), np.float32) if graph.gate else None
        gives = {item.name for item in session.get_outputs()}
        self.drafts = Buffer((1, room), np.int64) if "draft" in gives else None
        self._session = session
        self._source = source
        self._lengths = lengths
        slots = room + SPARE_SLOTS
        self._caches = {
            f"{part}.{index}": Buffer((1, arch.kv_heads, slots, arch.head_dim), formats.cache, device, axis=2)
            for index in range(graph.caches)
            for part in ("key", "value")
        }
        self.connect()

    def connect(self, padded: bool = False) -> None:
        """Bind the graph to the buffers at their present addresses. ``padded``: see Caller."""
        self._padding = 1 if padded else 0
        lengths, past, present = self._fixed()
        first = "input_ids" if self.graph.kind == "segment" and self.graph.start == 0 else "hidden"
        outputs = {"hidden_out": self.outputs, **self._small_outputs()}
        self._call = Caller(self._session, {first: self._source}, outputs, lengths | past, present, padded=padded)

    def _fixed(self) -> tuple[dict[str, Buffer], dict[str, Buffer], dict[str, Buffer]]:
        """What is bound as a whole: the lengths that the graph takes, and its caches before and after a call."""
        names = {item.name for item in self._session.get_inputs()}
        lengths = {name: value for name, value in self._lengths.values.items() if name in names}
        # The same buffer is past and present: the graph appends in place.
        past, present = (
            {f"{when}_{name}": buffer for name, buffer in self._caches.items()} for when in ("past", "present")
        )
        return lengths, past, present

    def resize(self, room: int) -> None:
        """Make room for ``room`` positions; consumed ones keep their values. ``connect`` must follow."""
        self.outputs.resize(room, self._kept)
        for buffer in self._small_outputs().values():
            buffer.resize(room, self._kept)
        for cache in self._caches.values():
            cache.resize(room + SPARE_SLOTS, self._kept)

    @property
    def _kept(self) -> int:
        """How many positions have values that still count."""
        return self.cursor

    def _small_outputs(self) -> dict[str, Buffer]:
        """The buffers of the outputs beside the hidden states, by the output's name: the gate's, and drafts."""
        found = {"gate": self.gates, "draft": self.drafts}
        return {name: buffer for name, buffer in found.items() if buffer is not None}

    def consume(self, stop: int) -> int:
        """Run positions [cursor, stop) in one batched call; returns how many these were."""
        start = self.cursor
        count = stop - start
        self._lengths.set(start, stop + self._padding if count == 1 else stop)
        self._call(start, stop)
        self.cursor, self.elapsed_ms = stop, self._call.elapsed_ms
        return count

    def state(self) -> dict[str, Buffer]:
        """All that the stage remembers of the positions before its cursor, by name: caches and outputs."""
        return {**self._caches, "hidden": self.outputs, **self._small_outputs()}

    def cache_arrays(self) -> list[npt.NDArray[Any]]:
        """The KV cache on the host, tensors [1, KV heads, slots, head_dim]. From the cursor on they are stale."""
        return [buffer.host() for buffer in self._caches.values()]


def stage_name(graph: Graph) -> str:
    """What timings and reports call a graph's stage."""
    names = {"segment": f"segment {graph.start}-{graph.stop}", "exit": f"exit {graph.stop}", "draft": DRAFT}
    return names[graph.kind]


class Head:
    """The shared LM head: turns normed hidden states of a stage into logits fp32 [rows, V], or into answers directly.

    ``sources``: the outputs that it may be asked to read. ``elapsed_ms``: what the graph took in the last call.
    """

    # Positions per call: the logits' buffer has so many rows.
    MAX_ROWS = 64

    def __init__(self, session: Any, vocabulary: int, sources: list[Buffer]) -> None:
        self._session = session
        self._sources = sources
        self._logits = Buffer((1, self.MAX_ROWS, vocabulary), np.float32)
        gives = {item.name for item in session.get_outputs()}
        types: dict[str, type[np.generic]] = {"token": np.int64, "top": np.float32, "margin": np.float32}
        self._answers = {name: Buffer((1, self.MAX_ROWS), dtype) for name, dtype in types.items() if name in gives}
        self.elapsed_ms = 0.0
        self.connect()

    def connect(self, padded: bool = False) -> None:
        """Bind the graph to the sources at their present addresses. ``padded``: see Caller."""
        self._calls = self._callers({"logits": self._logits}, padded)
        self._answering = self._callers(self._answers, padded) if self._answers else {}

    def _callers(self, outputs: dict[str, Buffer], padded: bool) -> dict[int, Caller]:
        return {
            id(source): Caller(self._session, {"hidden": source}, outputs, {}, {}, to_top=True, padded=padded)
            for source in self._sources
        }

    def rows(self, hidden: Buffer, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Logits fp32 [stop - start, V] of at most MAX_ROWS positions: a view that the next call overwrites.

        ``hidden``: one of the sources. Raises ValueError for too many positions or none.
        """
        self._run(self._calls[id(hidden)], start, stop)
        return self._logits.host()[0, : stop - start]

    def answers(self, hidden: Buffer, start: int, stop: int) -> Answers:
        """The likeliest tokens of at most MAX_ROWS positions; valid until the next call. Raises as ``rows``."""
        if not self._answers:
            return FromLogits(self.rows(hidden, start, stop))
        self._run(self._answering[id(hidden)], start, stop)
        return FromHead(*(buffer.host()[0, : stop - start] for buffer in self._answers.values()))

    def _run(self, call: Caller, start: int, stop: int) -> None:
        if not 0 < stop - start <= self.MAX_ROWS:
            raise ValueError(f"the head gives 1 to {self.MAX_ROWS} rows at a time, not {stop - start}")
        call(start, stop)
        self.elapsed_ms = call.elapsed_ms
