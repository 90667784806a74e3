"""The manifest of a bundle, ``balcony.json``: its schema. The exporter writes it, the runtime reads it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from balcony_edge.errors import BundleError
from balcony_edge.files.reading import parse_json, read_bytes
from balcony_edge.system.terminal import cell

MANIFEST_NAME = "balcony.json"
# The model card. People edit it where bundles are shared, so it has no digest; the runtime does not read it.
CARD_NAME = "README.md"
# The largest manifest, in bytes.
MOST_BYTES = 16 << 20
# The weights that all graphs share.
WEIGHTS_NAME = "weights.bin"
# Of a thin bundle: the weights that do not come from the base.
CARRIED_NAME = "carried.bin"
# Version 4 has a recipe, version 5 may have a draft stage; all else is as in version 3. All three are read.
SCHEMA_VERSION: Literal[5] = 5
READ_VERSIONS = (3, 4, SCHEMA_VERSION)
# The form of a repository's name on the Hugging Face Hub: owner/name.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4", "keep"]
Activations = Literal["fp32", "fp16", "bf16"]
Cache = Literal["fp32", "fp16", "bf16", "int8"]
Provider = Literal["cpu", "cuda"]
Exactness = Literal["bit", "float"]
# How weights of int8 and int4 are rounded: each by itself, or so that the outputs on a calibration text change least.
Rounding = Literal["nearest", "calibrated"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
# Bounds that no model comes near: what lies beyond them is no bundle, and would only fill memory or time.
Name = Annotated[str, Field(max_length=1000)]
Size = Annotated[int, Field(ge=0, le=1 << 50)]
Count = Annotated[int, Field(ge=1, le=1 << 22)]
Depth = Annotated[int, Field(ge=0, le=4096)]
TokenId = Annotated[int, Field(ge=0, le=1 << 31)]
Number = Annotated[float, Field(ge=-1e6, le=1e6)]
Bins = Annotated[list[Share], Field(max_length=256)]
MOST_EXITS = 24
# The most decoder layers that an exit may have.
MOST_EXIT_LAYERS = 8


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class Architecture(_Part):
    """The base model's sizes, as graphs and caches need them, in elements. ``layers``: decoder layers.

    ``context``: largest number of positions. ``tied_head``: the LM head is the embedding.
    """

    family: Name
    hidden: Annotated[Count, Field(le=1 << 17)]
    layers: Annotated[Count, Field(le=4096)]
    heads: Annotated[Count, Field(le=4096)]
    kv_heads: Annotated[Count, Field(le=4096)]
    head_dim: Annotated[Count, Field(le=1 << 14)]
    intermediate: Count
    vocabulary: Count
    context: Annotated[int, Field(ge=1, le=1 << 30)]
    tied_head: bool


class Formats(_Part):
    """The number formats in a bundle, and the ONNX Runtime provider that its graphs were built for.

    Attributes:
        base, exits, head: of the weights. The embedding has the head's format. "keep": the numbers that the base's
            checkpoint holds, not rounded.
        activations: of the hidden states that one graph hands to the next.
        cache: of keys and values.
        block_size: how many weights of int8 or int4 share one scale. A matrix whose inputs this does not divide has
            smaller blocks.
        symmetric: whether quantised weights have scales only; else they have zero points too.
        kept: the types in which the checkpoint holds what is kept, such as Q4_0; those of most weights first.
    """

    provider: Provider = "cpu"
    base: Precision = "fp32"
    exits: Precision = "fp32"
    head: Precision = "fp32"
    activations: Activations = "fp32"
    cache: Cache = "fp32"
    block_size: Count = 32
    symmetric: bool = True
    kept: tuple[str, ...] = ()

    @property
    def says_base(self) -> str:
        """The base's format in words."""
        return self._says(self.base)

    @property
    def says_head(self) -> str:
        """The head's format in words."""
        return self._says(self.head)

    def _says(self, precision: Precision) -> str:
        return f"kept ({', '.join(self.kept)})" if precision == "keep" else precision


class BaseInfo(_Part):
    """The frozen base model: its name, and the digest of its checkpoint files."""

    model: Name
    sha256: Name


class Graph(_Part):
    """One ONNX graph of a bundle.

    Attributes:
        kind: "segment" (base layers ``start`` + 1 to ``stop``), "exit" (at split ``stop``), "draft" (stage) or "head".
        file: its name in the bundle.
        start, stop: base layers that were run before it, and after it.
        caches: how many of its layers have a KV cache.
        gate: whether an exit also outputs its gate's logit.
        weight_bytes: bytes of weights that one token reads.
        legacy_file: the same graph for ONNX Runtime 1.23, in which a sliding window is one position wider than in later
            versions; None where that makes no difference.
    """

    kind: Literal["segment", "exit", "draft", "head"]
    file: Name
    start: Depth = 0
    stop: Depth = 0
    caches: Depth = 0
    gate: bool = False
    weight_bytes: Size = 0
    legacy_file: Name | None = None


class GateBins(_Part):
    """How often exits agree with the full model, by bins of a gate's calibrated probability, on the base's own text.

    Attributes:
        edges: probabilities that separate the bins, ascending; one fewer than there are bins.
        share: share of the tokens in each bin.
        agreement: depth → per bin, how often the exit at that depth gave the full model's token.
        drafted: per bin, how often the gate draft was the full model's token; None without gate drafts.
        judged: [bin][judge's bin], the shares of a bin's tokens in the judge's bins; None without a judge.
        following: depth → [bin][bin there], the shares of a bin's tokens in the bins of a deeper exit's gate.
    """

    edges: Bins
    share: Bins
    agreement: dict[int, Bins]
    drafted: Bins | None = None
    judged: list[Bins] | None = None
    following: dict[int, list[Bins]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> GateBins:
        known = [one for one in (self.drafted, self.judged) if one is not None]
        rows = [self.share, *self.agreement.values(), *self.following.values(), *known]
        if any(len(row) != len(self.edges) + 1 for row in rows):
            raise ValueError("edges, share, agreement and counts disagree about the number of bins")
        if sorted(self.edges) != self.edges:
            raise ValueError("gate bin edges must ascend")
        return self


class JudgeRecord(_Part):
    """Predicts whether an exit's token is the full model's, once the exit has answered; fitted on held-out text.

    score = ``gate`` × gate logit + ``top`` × log-probability of the token + ``margin`` × its lead in logits over the
    second + ``previous`` × the log-probability at the position before (``previous_mean`` if that is unknown)
    + ``offset``.

    ``edges`` of sigmoid(score) separate bins; ``share`` of the tokens lies in each, and ``agreement`` is how often the
    exit gave the full model's token there.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    gate: Number
    top: Number
    margin: Number
    previous: Number
    offset: Number
    previous_mean: Number
    edges: Bins
    share: Bins
    agreement: Bins

    @model_validator(mode="after")
    def _consistent(self) -> JudgeRecord:
        if len({len(self.edges) + 1, len(self.share), len(self.agreement)}) != 1:
            raise ValueError("a judge's edges, share and agreement disagree about the number of bins")
        if sorted(self.edges) != self.edges:
            raise ValueError("a judge's bin edges must ascend")
        return self


class ExitQuality(_Part):
    """What was measured of one exit on held-out text.

    ``agreement``: how often its token is the full model's. ``kl_nats``: mean divergence from the full model, in nats.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    agreement: Share
    kl_nats: Number
    bins: GateBins
    judge: JudgeRecord | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ExitQuality:
        judged = self.bins.judged
        if judged and (self.judge is None or any(len(row) != len(self.judge.share) for row in judged)):
            raise ValueError("bins.judged and the judge disagree about the number of the judge's bins")
        return self


class Generation(_Part):
    """Token ids that begin and end texts. ``add_bos``: the tokenizer puts ``bos_token_id`` in front of prompts."""

    bos_token_id: TokenId | None = None
    eos_token_ids: list[TokenId] = Field(default_factory=list)
    add_bos: bool = False


class FileEntry(_Part):
    """Size and digest of one file of the bundle."""

    bytes: Size
    sha256: Name


class Recipe(_Part):
    """How the weights file is made again from the base, so that a bundle can be shared without it (see thin.py).

    Attributes:
        version: of the exporter's rules. Rules of another version give other bytes.
        rounding: who gave the numbers of quantised weights ("nearest": each was rounded by itself).
        exits: "trained", "init" (copies of the base's last layer) or "none".
        carried: size and digest of all weights that do not come from the base, one after the other.
        made_with: what rounded the weights, in words.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Size
    rounding: Name
    exits: Literal["trained", "init", "none"]
    carried: FileEntry
    made_with: Name


class Manifest(_Part):
    """All of ``balcony.json``.

    Attributes:
        schema_version: version of this schema.
        base, architecture: the frozen base model.
        splits: depths at which the trunk is cut, in base layers.
        formats: number formats of weights, activations and caches.
        exactness: "bit" if the graphs compute a batch with the bits of single positions, else "float".
        minimum_onnxruntime: the oldest version that can run it.
        graphs: segments, exits and the head.
        quality: depth of an exit → what was measured of it.
        guesses: how often the draft stage's first, second, … guess in a row is right, where those before it are.
        generation: token ids that begin and end texts.
        files: name → size and digest of the bundle's files; those of the card are not checked.
        recipe: how the weights file comes from the base; None: it is not known, and the bundle cannot be thin.
    """

    schema_version: Literal[3, 4, 5]
    base: BaseInfo
    architecture: Architecture
    splits: list[Depth]
    formats: Formats
    exactness: Exactness
    minimum_onnxruntime: tuple[Size, Size] = (1, 23)
    graphs: Annotated[list[Graph], Field(min_length=2, max_length=1024)]
    quality: dict[int, ExitQuality]
    guesses: Annotated[list[Share], Field(max_length=16)] = []
    generation: Generation
    files: Annotated[dict[Name, FileEntry], Field(max_length=4096)]
    recipe: Recipe | None = None

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
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
        if len(exits) > MOST_EXITS:
            raise ValueError(f"there are {len(exits)} exits; {MOST_EXITS} are the most")
        for graph in self.graphs:
            most = {"segment": graph.stop - graph.start, "exit": MOST_EXIT_LAYERS, "draft": 1, "head": 0}
            if graph.caches > most[graph.kind]:
                raise ValueError(f"graph {graph.file} has {graph.caches} caches, more than it has layers")
        if not set(self.quality) <= set(exits):
            raise ValueError("quality names an exit that the bundle lacks")
        for split, quality in self.quality.items():
            if not {depth for depth in exits if depth >= split} <= set(quality.bins.agreement):
                raise ValueError(f"the bins of exit {split} tell nothing of a deeper exit")
            for depth, rows in quality.bins.following.items():
                if depth not in self.quality or any(len(row) != len(self.quality[depth].bins.share) for row in rows):
                    raise ValueError(f"the bins of exit {split} tell of bins that exit {depth} lacks")
        if sum(graph.kind == "head" for graph in self.graphs) != 1:
            raise ValueError("a bundle has exactly one head")
        if not bool(self.guesses) <= sum(graph.kind == "draft" for graph in self.graphs) <= 1:
            raise ValueError("a bundle has at most one draft stage, and none without it has guesses")
        for graph in self.graphs:
            for name in filter(None, (graph.file, graph.legacy_file)):
                if name not in self.files:
                    raise ValueError(f"graph file {name} is not among the bundle's files")
                # For another ending ONNX Runtime expects another format, whose contents are not checked here.
                if not name.endswith(".onnx"):
                    raise ValueError(f"graph file {name} does not end in .onnx")
        for name in self.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
                raise ValueError(f"file {name!r} lies outside the bundle")
        if self.recipe is not None and (WEIGHTS_NAME not in self.files or CARRIED_NAME in self.files):
            raise ValueError("the recipe and the files do not match")
        return self

    @property
    def segments(self) -> list[Graph]:
        """The segments of the trunk, from the embedding up."""
        return sorted((graph for graph in self.graphs if graph.kind == "segment"), key=lambda graph: graph.start)

    @property
    def exits(self) -> list[Graph]:
        """The exits, shallowest first."""
        return sorted((graph for graph in self.graphs if graph.kind == "exit"), key=lambda graph: graph.stop)

    @property
    def draft(self) -> Graph | None:
        """The draft stage; None without one."""
        return next((graph for graph in self.graphs if graph.kind == "draft"), None)

    @property
    def head(self) -> Graph:
        """The LM head that every exit and the full depth share."""
        return next(graph for graph in self.graphs if graph.kind == "head")

    @property
    def digest(self) -> str:
        """One sha256 for the whole bundle, from its files' names and digests. Caches use it as a key."""
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
    """The manifest of a bundle folder. It is checked, but the files that it lists are not.

    Raises BundleError if it is missing, broken or of another version.
    """
    path = folder / MANIFEST_NAME
    try:
        content = parse_json(read_bytes(path, MOST_BYTES, pipes=False).decode("utf-8"), any_numbers=True)
    except FileNotFoundError as error:
        none = f"there is no bundle at {folder}"
        what = f"{folder} is no bundle: it has no {MANIFEST_NAME}" if folder.exists() else none
        raise BundleError(what, "make one: balcony-edge export MODEL -o bundle/") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read {path}: {error}", "export the bundle again, or copy it again") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version not in READ_VERSIONS:
        raise BundleError(
            f"{path} has schema version {version!r}; this balcony-edge reads {', '.join(map(str, READ_VERSIONS))}",
            "export the bundle again with this version of balcony-edge",
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = cell(".".join(str(part) for part in first["loc"]))[:200] or "the manifest"
        raise BundleError(f"{path} is not valid: {where}: {first['msg']}", "export the bundle again") from error
