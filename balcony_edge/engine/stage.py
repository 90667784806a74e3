"""A stage: one ONNX graph that consumes positions in order, owns its KV cache and keeps a cursor."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_edge.bundle.manifest import Architecture, Formats, Graph
from balcony_edge.engine.answers import Answers, FromHead, FromLogits
from balcony_edge.engine.caller import Caller, Control
from balcony_edge.engine.memory import Buffer

# Cache slots behind the last position: one for the zero row of bit-exact graphs, one for a padded single position.
SPARE_SLOTS = 2


class Stage:
    """A segment or an exit of the ladder.

    ``cursor`` positions have been consumed. ``source`` holds what the stage reads (ids or hidden states, by position),
    ``outputs`` what it wrote: hidden [1, room, H] in the bundle's activations.
    ``gates`` (fp32 [1, room, 1], or None) are the gate's logits, ``drafts`` (int64 [1, room], or None) the likeliest of
    the tokens that it looked at. ``resize`` makes room for more positions; all stages must be resized before any is
    connected again, since they read each other's outputs.
    """

    def __init__(
        self,
        session: Any,
        graph: Graph,
        arch: Architecture,
        formats: Formats,
        source: Buffer,
        control: Control,
        room: int,
        device: str = "cpu",
    ) -> None:
        self.graph = graph
        # How timings and reports call the stage.
        self.name = f"segment {graph.start}-{graph.stop}" if graph.kind == "segment" else f"exit {graph.stop}"
        self.cursor = 0
        self.outputs = Buffer((1, room, arch.hidden), formats.activations, device)
        self.gates = Buffer((1, room, 1), np.float32) if graph.gate else None
        gives = {item.name for item in session.get_outputs()}
        self.drafts = Buffer((1, room), np.int64) if "draft" in gives else None
        self._session = session
        self._source = source
        self._control = control
        slots = room + SPARE_SLOTS
        self._caches = {
            f"{part}.{index}": Buffer((1, arch.kv_heads, slots, arch.head_dim), formats.cache, device, axis=2)
            for index in range(graph.caches)
            for part in ("key", "value")
        }
        self.connect()

    def connect(self, padded: bool = False) -> None:
        """Bind the graph to the buffers where they lie now; ``padded`` as of Caller."""
        self._padding = 1 if padded else 0
        names = {item.name for item in self._session.get_inputs()}
        lengths = {name: value for name, value in self._control.values.items() if name in names}
        self._call = Caller(
            self._session,
            {"input_ids" if "input_ids" in names else "hidden": self._source},
            {"hidden_out": self.outputs, **self._looks()},
            # One buffer as past and present: the graph appends in place.
            lengths | {f"past_{name}": buffer for name, buffer in self._caches.items()},
            {f"present_{name}": buffer for name, buffer in self._caches.items()},
            padded=padded,
        )

    def resize(self, room: int) -> None:
        """Room for ``room`` positions; what was consumed is kept. ``connect`` must follow."""
        self.outputs.resize(room, self.cursor)
        for looked in self._looks().values():
            looked.resize(room, self.cursor)
        for cache in self._caches.values():
            cache.resize(room + SPARE_SLOTS, self.cursor)

    def _looks(self) -> dict[str, Buffer]:
        """What the gate gives, by name."""
        found = {"gate": self.gates, "draft": self.drafts}
        return {name: buffer for name, buffer in found.items() if buffer is not None}

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds of the last call's graph run."""
        return self._call.elapsed_ms

    def consume(self, stop: int) -> int:
        """Run positions [cursor, stop) in one batched call; returns how many that were."""
        start = self.cursor
        count = stop - start
        self._control.set(start, stop + self._padding if count == 1 else stop)
        self._call(start, stop)
        self.cursor = stop
        return count

    def state(self) -> dict[str, Buffer]:
        """Everything that the stage remembers of the positions before its cursor, by name: caches and outputs."""
        return {**self._caches, "hidden": self.outputs, **self._looks()}

    def cache_arrays(self) -> list[npt.NDArray[Any]]:
        """The KV cache's tensors [1, KV, slots, D] on the host; positions from the cursor on are stale."""
        return [buffer.host() for buffer in self._caches.values()]


class Head:
    """The shared LM head: normed hidden states of a stage to logits fp32 [rows, V], or to answers without them."""

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
        """Bind the graph to the sources where they lie now; ``padded`` as of Caller."""
        self._calls = self._callers({"logits": self._logits}, padded)
        self._answering = self._callers(self._answers, padded) if self._answers else {}

    def _callers(self, outputs: dict[str, Buffer], padded: bool) -> dict[int, Caller]:
        return {
            id(source): Caller(self._session, {"hidden": source}, outputs, {}, {}, to_top=True, padded=padded)
            for source in self._sources
        }

    def rows(self, hidden: Buffer, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Logits of positions [start, stop), at most MAX_ROWS: a view that the next call overwrites."""
        self._run(self._calls[id(hidden)], start, stop)
        return self._logits.host()[0, : stop - start]

    def answers(self, hidden: Buffer, start: int, stop: int) -> Answers:
        """The likeliest tokens of positions [start, stop), at most MAX_ROWS, until the next call."""
        if not self._answers:
            return FromLogits(self.rows(hidden, start, stop))
        self._run(self._answering[id(hidden)], start, stop)
        return FromHead(*(buffer.host()[0, : stop - start] for buffer in self._answers.values()))

    def _run(self, call: Caller, start: int, stop: int) -> None:
        if not 0 < stop - start <= self.MAX_ROWS:
            raise ValueError(f"the head gives 1 to {self.MAX_ROWS} rows at a time, not {stop - start}")
        call(start, stop)
        self.elapsed_ms = call.elapsed_ms
