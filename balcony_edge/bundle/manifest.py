"""``balcony.json``, a manifest: the exporter writes it, the runtime reads it, and its schema has its one home here."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from balcony_edge.errors import BundleError

MANIFEST_NAME = "balcony.json"
# The model card: for people, and edited where bundles are shared. No digest guards it, nothing reads it.
CARD_NAME = "README.md"
SCHEMA_VERSION = 3
# What can be a repository of the Hugging Face Hub: owner/name.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
Activations = Literal["fp32", "fp16", "bf16"]
Cache = Literal["fp32", "fp16", "bf16", "int8"]
Provider = Literal["cpu", "cuda"]
Exactness = Literal["bit", "float"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class Architecture(_Record):
    """The numbers that graphs and caches need. Sizes are counts of elements; ``layers`` counts decoder layers."""

    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    context: int
    tied_head: bool


class Formats(_Record):
    """How a bundle keeps its numbers, and for which ONNX Runtime provider its graphs were built.

    ``base``, ``exits`` and ``head`` are those of the weights (the embedding goes with the head); ``activations`` those
    of the hidden states between graphs, ``cache`` those of keys and values. Weights of int8 and int4 share one scale
    per ``block_size`` or, where a matrix divides less evenly, per fewer; they have zero points unless ``symmetric``.
    """

    provider: Provider = "cpu"
    base: Precision = "fp32"
    exits: Precision = "fp32"
    head: Precision = "fp32"
    activations: Activations = "fp32"
    cache: Cache = "fp32"
    block_size: int = 32
    symmetric: bool = True


class BaseInfo(_Record):
    """Which frozen base this is: its name, and the digest of its checkpoint files."""

    model: str
    sha256: str


class Graph(_Record):
    """One ONNX graph. ``start`` and ``stop`` count the base layers run before and after it.

    kind "segment": base layers ``start+1 … stop``; "exit": the Balcony of split ``stop``; "head": LM head.
    ``caches``: how many layers keep a KV cache in it. ``gate``: whether an exit also answers its gate.
    ``weight_bytes``: the weights that one token reads. ``legacy_file``: the same graph for ONNX Runtime 1.23, which
    takes a sliding window for one position wider than later versions do; only where the two differ.
    """

    kind: Literal["segment", "exit", "head"]
    file: str
    start: int = 0
    stop: int = 0
    caches: int = 0
    gate: bool = False
    weight_bytes: int = 0
    legacy_file: str | None = None


class GateBins(_Record):
    """Agreement on the base's own text by calibrated gate probability: ``edges`` separate bins, ``share`` weighs them.

    ``agreement[depth][bin]``: how often the exit at ``depth`` gave the full model's token in that bin;
    ``drafted[bin]``: how often the likeliest of the tokens that the gate looks at was it. ``judged[bin][judge's bin]``
    and ``following[depth][bin][bin there]``: of a bin's tokens, the shares of what the judge, and the gate of a deeper
    exit, then said.
    """

    edges: list[float]
    share: list[Share]
    agreement: dict[int, list[Share]]
    drafted: list[Share] | None = None
    judged: list[list[Share]] | None = None
    following: dict[int, list[list[Share]]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> GateBins:
        known = [one for one in (self.drafted, self.judged) if one is not None]
        rows = [self.share, *self.agreement.values(), *self.following.values(), *known]
        if any(len(row) != len(self.edges) + 1 for row in rows):
            raise ValueError("edges, share, agreement and counts disagree about the number of bins")
        if sorted(self.edges) != self.edges:
            raise ValueError("gate bin edges must ascend")
        return self


class JudgeRecord(_Record):
    """How likely an exit's token is the full model's, once the exit has answered; fitted on held-out text.

    score = ``gate`` · gate logit + ``top`` · log-probability of the token + ``margin`` · logit gap to the second +
    ``previous`` · ``top`` of the position before (``previous_mean`` where that is unknown) + ``offset``.
    ``edges`` of sigmoid(score) separate the bins, ``share`` weighs them; ``agreement[bin]`` was measured.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    gate: float
    top: float
    margin: float
    previous: float
    offset: float
    previous_mean: float
    edges: list[float]
    share: list[Share]
    agreement: list[Share]

    @model_validator(mode="after")
    def _consistent(self) -> JudgeRecord:
        if len({len(self.edges) + 1, len(self.share), len(self.agreement)}) != 1:
            raise ValueError("a judge's edges, share and agreement disagree about the number of bins")
        if sorted(self.edges) != self.edges:
            raise ValueError("a judge's bin edges must ascend")
        return self


class ExitQuality(_Record):
    """What training measured for one exit on held-out text."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    agreement: Share
    kl_nats: float
    bins: GateBins
    judge: JudgeRecord | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ExitQuality:
        judged = self.bins.judged
        if judged and (self.judge is None or any(len(row) != len(self.judge.share) for row in judged)):
            raise ValueError("bins.judged and the judge disagree about the number of the judge's bins")
        return self


class Generation(_Record):
    """Defaults of generation; ids index the vocabulary."""

    bos_token_id: int | None = None
    eos_token_ids: list[int] = Field(default_factory=list)
    add_bos: bool = False


class FileEntry(_Record):
    """Size and digest of one file of the bundle."""

    bytes: int
    sha256: str


class Manifest(_Record):
    """All of ``balcony.json``."""

    schema_version: Literal[3]
    base: BaseInfo
    architecture: Architecture
    splits: list[int]
    formats: Formats
    exactness: Exactness
    minimum_onnxruntime: tuple[int, int] = (1, 23)
    graphs: Annotated[list[Graph], Field(min_length=2)]
    quality: dict[int, ExitQuality]
    generation: Generation
    files: dict[str, FileEntry]

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        sizes = ("hidden", "layers", "heads", "kv_heads", "head_dim", "intermediate", "vocabulary", "context")
        for name in sizes:
            if getattr(self.architecture, name) < 1:
                raise ValueError(f"architecture.{name} is {getattr(self.architecture, name)}, not a count")
        position = 0
        for graph in self.segments:
            if graph.start != position or graph.stop <= graph.start:
                raise ValueError("the segments do not follow one another")
            position = graph.stop
        if position != self.architecture.layers:
            raise ValueError("the segments do not cover all layers")
        cuts = [graph.stop for graph in self.segments[:-1]]
        exits = [graph.stop for graph in self.exits]
        if cuts != self.splits or not set(exits) <= set(cuts) or len(set(exits)) != len(exits):
            raise ValueError("splits, segments and exits do not match")
        if not set(self.quality) <= set(exits):
            raise ValueError("quality names an exit that the bundle lacks")
        for split, quality in self.quality.items():
            for depth, rows in quality.bins.following.items():
                if depth not in self.quality or any(len(row) != len(self.quality[depth].bins.share) for row in rows):
                    raise ValueError(f"the bins of exit {split} tell of bins that exit {depth} lacks")
        if sum(graph.kind == "head" for graph in self.graphs) != 1:
            raise ValueError("a bundle has exactly one head")
        for graph in self.graphs:
            for name in filter(None, (graph.file, graph.legacy_file)):
                if name not in self.files:
                    raise ValueError(f"graph file {name} is not among the bundle's files")
                # By the ending alone ONNX Runtime chooses another format, whose insides are not checked here.
                if not name.endswith(".onnx"):
                    raise ValueError(f"graph file {name} does not end in .onnx")
        for name in self.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
                raise ValueError(f"file {name!r} lies outside the bundle")
        return self

    @property
    def segments(self) -> list[Graph]:
        """The trunk, from the embedding up."""
        return sorted((graph for graph in self.graphs if graph.kind == "segment"), key=lambda graph: graph.start)

    @property
    def exits(self) -> list[Graph]:
        """The Balconies, shallowest first."""
        return sorted((graph for graph in self.graphs if graph.kind == "exit"), key=lambda graph: graph.stop)

    @property
    def head(self) -> Graph:
        """The LM head that every exit and the full depth share."""
        return next(graph for graph in self.graphs if graph.kind == "head")

    @property
    def digest(self) -> str:
        """One digest for the whole bundle: calibrations are cached under it."""
        lines = (f"{name} {entry.sha256}" for name, entry in sorted(self.files.items()))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_entry(path: Path) -> FileEntry:
    """Size and sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return FileEntry(bytes=path.stat().st_size, sha256=digest.hexdigest())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle folder, checked in itself; the files that it names are not looked at.

    Raises BundleError.
    """
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        what = f"{folder} is no bundle: it has no {MANIFEST_NAME}"
        if not folder.exists():
            what = f"there is no bundle at {folder}"
        raise BundleError(what, "make one: balcony-edge export MODEL -o bundle/") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"cannot read {path}: {error}", "export the bundle again, or copy it again") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version!r}; this balcony-edge reads version {SCHEMA_VERSION}",
            "export the bundle again with this version of balcony-edge",
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the manifest"
        raise BundleError(f"{path} is not valid: {where}: {first['msg']}", "export the bundle again") from error
