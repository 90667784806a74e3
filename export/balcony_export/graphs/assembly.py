"""Write all graphs of a bundle and their shared weights file, or only find out their sizes for a dry run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import onnx

from balcony_edge.bundle.manifest import Exactness, Formats, Graph
from balcony_export.exits.store import DRAFT_MARK
from balcony_export.graphs import stages
from balcony_export.graphs.builder import CacheScales, GraphBuilder
from balcony_export.graphs.kept import Kept
from balcony_export.graphs.quantiser import Nearest, Quantiser
from balcony_export.graphs.weights import WeightFile
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.checkpoint import TensorSource

# Stands before ".onnx" in the name of a graph's second form, for ONNX Runtime 1.23 (see Graph.legacy_file).
LEGACY = ".ort123"


@dataclass(frozen=True)
class Parts:
    """What a bundle's graphs are made of."""

    base: TensorSource
    exits: TensorSource | None
    """None: the bundle has no exits."""
    splits: list[int]
    frequent_tokens: tuple[int, ...] = ()
    """The tokens whose rows of the head the gates read (see exits/gate.py); (): the exits have no gates."""
    quantiser: Quantiser = field(default_factory=Nearest)
    """Holds the weights of int8 and int4."""
    keeper: Kept = field(default_factory=Kept)
    """Holds the weights that are kept as in the checkpoint."""


@dataclass(frozen=True)
class WrittenGraph:
    """One graph that was written."""

    entry: Graph
    """Its entry in the manifest."""
    graph_bytes: int
    """The size of its file, which holds no weights."""


def write_graphs(
    folder: Path | None,
    weights: WeightFile,
    blueprint: Blueprint,
    parts: Parts,
    formats: Formats,
    exactness: Exactness,
    scales: CacheScales | None = None,
) -> list[WrittenGraph]:
    """Write every segment, every exit and the head to ``folder``. With None, nothing is written; all sizes are right.

    ``scales``: those of an int8 KV cache, by layer name.
    """
    written = []
    for entry, build in _plan(blueprint, parts):
        new = partial(_builder, weights, blueprint, parts, formats, exactness, scales)
        builder = new(legacy=False)
        size = _write(build(builder), folder, entry.file)
        legacy_file = None
        if builder.windowed:
            legacy_file = entry.file.replace(".onnx", f"{LEGACY}.onnx")
            size += _write(build(new(legacy=True)), folder, legacy_file)
        found = {"caches": builder.caches, "weight_bytes": builder.token_bytes, "legacy_file": legacy_file}
        written.append(WrittenGraph(entry.model_copy(update=found), size))
    return written


def write_base_weights(
    weights: WeightFile, blueprint: Blueprint, parts: Parts, formats: Formats, exactness: Exactness
) -> None:
    """Write the weights alone, no graphs: those of ``parts``, and of the head's rows that gates read."""
    write_graphs(None, weights, blueprint, parts, formats, exactness)
    if parts.frequent_tokens:
        builder = _builder(weights, blueprint, parts, formats, exactness, None, legacy=False)
        stages.peek(builder, parts.base, parts.frequent_tokens)


def _builder(
    weights: WeightFile,
    blueprint: Blueprint,
    parts: Parts,
    formats: Formats,
    exactness: Exactness,
    scales: CacheScales | None,
    legacy: bool,
) -> GraphBuilder:
    return GraphBuilder(blueprint, weights, formats, exactness, parts.quantiser, parts.keeper, legacy, scales)


def _plan(blueprint: Blueprint, parts: Parts) -> list[tuple[Graph, Callable[[GraphBuilder], onnx.ModelProto]]]:
    planned: list[tuple[Graph, Callable[[GraphBuilder], onnx.ModelProto]]] = []
    for start, stop in pairwise([0, *parts.splits, blueprint.arch.layers]):
        entry = Graph(kind="segment", file=f"segment_{start}_{stop}.onnx", start=start, stop=stop)
        planned.append((entry, partial(stages.segment, base=parts.base, start=start, stop=stop)))
    if parts.exits is not None:
        for split in parts.splits:
            entry = Graph(
                kind="exit", file=f"exit_{split}.onnx", start=split, stop=split, gate=bool(parts.frequent_tokens)
            )
            build = partial(
                stages.balcony_exit,
                base=parts.base,
                exits=parts.exits,
                split=split,
                frequent_tokens=parts.frequent_tokens,
            )
            planned.append((entry, build))
    if parts.exits is not None and DRAFT_MARK in parts.exits:
        layers = blueprint.arch.layers
        entry = Graph(kind="draft", file="draft.onnx", start=layers, stop=layers)
        build = partial(stages.draft_stage, base=parts.base, exits=parts.exits, frequent_tokens=parts.frequent_tokens)
        planned.append((entry, build))
    planned.append((Graph(kind="head", file="head.onnx"), partial(stages.head, base=parts.base)))
    return planned


def _write(model: onnx.ModelProto, folder: Path | None, name: str) -> int:
    content = model.SerializeToString()
    if folder is not None:
        (folder / name).write_bytes(content)
    return len(content)
