"""From a frozen base and its exits to a bundle on disk, written whole or not at all."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np

from balcony_edge.bundle import (
    CARD_NAME,
    MANIFEST_NAME,
    Architecture,
    BaseInfo,
    Bundle,
    Exactness,
    ExitQuality,
    Generation,
    Graph,
    Manifest,
    Precision,
    file_entry,
)
from balcony_edge.errors import ModelError
from balcony_edge.whole import whole_folder
from balcony_export import architectures, card, graphs
from balcony_export.checkpoint import Array, Checkpoint, Tensors
from balcony_export.exits import Exits, base_digest, load
from balcony_export.weights import FILE_NAME, WeightFile

COPIED = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", *card.LICENCES, "NOTICE"]


def export_bundle(
    folder: Path,
    out: Path,
    *,
    model: str,
    exits: Path | str | None = None,
    splits: list[int] | None = None,
    precision: Precision = "fp32",
    block_size: int = 32,
    exactness: Exactness = "bit",
) -> Bundle:
    """Export the model in ``folder`` to the bundle ``out`` and return it, verified.

    ``exits``: a folder of trained exits, "init" (copies of the base's last layer) or None (segments only). ``splits``
    defaults to those of the exits. An existing bundle at ``out`` is replaced only once the new one is whole.
    Raises ModelError or ExitsError for input that does not fit, BundleError for an ``out`` that is something else.
    """
    arch = architectures.read(folder)
    if precision != "fp32" and arch.hidden % block_size:
        raise ModelError(
            f"block size {block_size} does not divide the model's hidden size {arch.hidden}",
            "choose another --block-size (16, 32, 64 …) or --precision fp32",
        )
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json",
            "save the fast tokenizer beside the model: AutoTokenizer.from_pretrained(…).save_pretrained(folder)",
        )
    base = Checkpoint(folder)
    source, quality, splits = _exits(exits, splits, base, arch, folder)
    with whole_folder(out) as work:
        entries = _write_graphs(work, base, source, arch, splits, precision, block_size, exactness)
        for name in COPIED:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, work / name)
        manifest = Manifest(
            schema_version=1,
            base=BaseInfo(model=model_name(model), sha256=base_digest(folder)),
            architecture=arch,
            splits=splits,
            precision=precision,
            block_size=block_size,
            exactness=exactness,
            graphs=entries,
            quality=quality,
            generation=_generation(folder),
            files={path.name: file_entry(path) for path in sorted(work.iterdir())},
        )
        (work / CARD_NAME).write_text(card.render(manifest, card.licence(folder)), encoding="utf-8")
        (work / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1) + "\n")
    return Bundle(out)


def model_name(model: str) -> str:
    """How a manifest names the base: a Hub id as it is, of a local path only the last part."""
    return Path(model).resolve().name if Path(model).exists() else model


def initial_exits(base: Checkpoint, arch: Architecture, splits: list[int]) -> Tensors:
    """Untrained Balconies: the last layer and the final norm of the base (paper, section 3: initialisation)."""
    last = f"model.layers.{arch.layers - 1}."
    parts = ["input_layernorm", "post_attention_layernorm"]
    parts += [f"self_attn.{part}_proj" for part in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    tensors: dict[str, Array] = {}
    for split in splits:
        for part in parts:
            tensors[f"exits.{split}.layer.{part}.weight"] = base.tensor(f"{last}{part}.weight")
        tensors[f"exits.{split}.norm.weight"] = base.tensor("model.norm.weight")
    return Tensors(tensors)


def _exits(
    exits: Path | str | None, splits: list[int] | None, base: Checkpoint, arch: Architecture, folder: Path
) -> tuple[Tensors | None, dict[int, ExitQuality], list[int]]:
    """The exits' tensors, their measured quality and the splits, from what the caller named."""
    if isinstance(exits, Path):
        trained: Exits = load(exits)
        trained.check_base(folder)
        if splits is not None and not set(splits) <= set(trained.splits):
            raise ModelError(
                f"the exits in {exits} were trained at {list(trained.splits)}, not at {splits}",
                "leave --splits out, or name some of those",
            )
        chosen = architectures.check_splits(list(splits or trained.splits), arch.layers)
        measured = trained.quality["exits"]
        quality = {split: ExitQuality.model_validate(_only(measured[str(split)], chosen)) for split in chosen}
        return Tensors(dict(trained.tensors)), quality, chosen
    if splits is None:
        splits = sorted({max(1, arch.layers * part // 4) for part in (1, 2, 3)} - {arch.layers})
    chosen = architectures.check_splits(splits, arch.layers)
    return (initial_exits(base, arch, chosen) if exits == "init" else None), {}, chosen


def _only(quality: dict[str, object], splits: list[int]) -> dict[str, object]:
    """A quality record without the exits that are not exported."""
    bins = json.loads(json.dumps(quality["bins"]))
    bins["agreement"] = {depth: row for depth, row in bins["agreement"].items() if int(depth) in splits}
    return {**quality, "bins": bins}


def _write_graphs(
    work: Path,
    base: Checkpoint,
    exits: Tensors | None,
    arch: Architecture,
    splits: list[int],
    precision: Precision,
    block_size: int,
    exactness: Exactness,
) -> list[Graph]:
    with closing(WeightFile(work, precision, block_size)) as weights:
        return _write_graphs_into(weights, work, base, exits, arch, splits, exactness)


def _write_graphs_into(
    weights: WeightFile,
    work: Path,
    base: Checkpoint,
    exits: Tensors | None,
    arch: Architecture,
    splits: list[int],
    exactness: Exactness,
) -> list[Graph]:
    entries: list[Graph] = []

    def builder() -> graphs.GraphBuilder:
        return graphs.GraphBuilder(arch, weights, exactness)

    cuts = [0, *splits, arch.layers]
    for start, stop in pairwise(cuts):
        gated = exits is not None and f"gates.{stop}.up.weight" in exits
        name = f"segment_{start}_{stop}.onnx"
        graphs.segment(builder(), base, exits if gated else None, start, stop, work / name)
        entries.append(Graph(kind="segment", file=name, start=start, stop=stop, caches=stop - start, gate=gated))
    if exits is not None:
        for split in splits:
            name = f"exit_{split}.onnx"
            graphs.balcony_exit(builder(), exits, split, work / name)
            entries.append(Graph(kind="exit", file=name, start=split, stop=split, caches=1))
    graphs.head(builder(), base, work / "head.onnx")
    entries.append(Graph(kind="head", file="head.onnx"))
    return entries


def _generation(folder: Path) -> Generation:
    """Start and end tokens: generation_config.json before config.json; whether prompts start with bos."""
    merged = dict(architectures.read_config(folder))
    path = folder / "generation_config.json"
    if path.is_file():
        merged |= {key: value for key, value in json.loads(path.read_text()).items() if value is not None}
    end = merged.get("eos_token_id")
    ends = [] if end is None else [int(e) for e in (end if isinstance(end, list) else [end])]
    start = merged.get("bos_token_id")
    return Generation(bos_token_id=start, eos_token_ids=ends, add_bos=start is not None and start not in ends)


def read_weights(bundle: Bundle, graph: Graph) -> dict[str, Array]:
    """The float32 initialisers of a graph as they lie in the weights file: for comparing with a checkpoint."""
    import onnx

    model = onnx.load(bundle.file(graph.file), load_external_data=False)
    data = np.memmap(bundle.file(FILE_NAME), np.uint8, "r")
    found: dict[str, Array] = {}
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place and tensor.data_type == onnx.TensorProto.FLOAT:
            start, length = int(place["offset"]), int(place["length"])
            found[tensor.name] = data[start : start + length].view(np.float32).reshape(tensor.dims)
    return found
