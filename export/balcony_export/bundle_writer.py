"""From a frozen base and its exits to a bundle on disk, written whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from balcony_edge.bundle import (
    MANIFEST_NAME,
    BaseInfo,
    Bundle,
    Exactness,
    ExitQuality,
    Formats,
    Generation,
    Graph,
    Manifest,
    file_entry,
)
from balcony_edge.errors import ModelError
from balcony_export import architectures, graphs
from balcony_export.blueprint import Blueprint
from balcony_export.builder import GraphBuilder
from balcony_export.checkpoint import Array, Checkpoint, Tensors
from balcony_export.exits import Exits, base_digest, load
from balcony_export.formats import Choice
from balcony_export.weights import BITS, FILE_NAME, WeightFile

DEFAULT = Choice()
COPIED = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE"]


def export_bundle(
    folder: Path,
    out: Path,
    *,
    model: str,
    exits: Path | str | None = None,
    splits: list[int] | None = None,
    choice: Choice = DEFAULT,
    context: int | None = None,
    check: Callable[[Bundle], None] | None = None,
) -> Bundle:
    """Export the model in ``folder`` to the bundle ``out`` and return it, verified.

    ``exits``: a folder of trained exits, "init" (copies of the base's last layer) or None (segments only). ``splits``
    defaults to those of the exits. ``context`` shortens the model's. An existing bundle at ``out`` is replaced only
    once the new one is whole and ``check`` has seen it: what that raises leaves nothing behind. Raises ModelError or
    ExitsError for input that does not fit.
    """
    blueprint = architectures.read(folder, context)
    arch = blueprint.arch
    formats = choice.formats()
    if formats.head in BITS and arch.hidden % formats.block_size:
        raise ModelError(
            f"block size {formats.block_size} does not divide the model's hidden size {arch.hidden}",
            "choose another --block-size (16, 32, 64 …) or --head fp32",
        )
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json",
            "save the fast tokenizer beside the model: AutoTokenizer.from_pretrained(…).save_pretrained(folder)",
        )
    base = Checkpoint(folder)
    source, quality, splits = _exits(exits, splits, base, blueprint, folder)
    if out.exists() and not (out / MANIFEST_NAME).is_file() and any(out.iterdir()):
        raise ModelError(f"{out} exists and is no bundle", "choose another -o folder, or empty this one")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        entries = _write_graphs(work, base, source, blueprint, splits, formats, choice.attention())
        for name in COPIED:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, work / name)
        (work / "README.md").write_text(_card(model, splits, formats.base))
        manifest = Manifest(
            schema_version=2,
            base=BaseInfo(model=model_name(model), sha256=base_digest(folder)),
            architecture=arch,
            splits=splits,
            formats=formats,
            exactness=choice.attention(),
            minimum_onnxruntime=choice.minimum_onnxruntime(),
            graphs=entries,
            quality=quality,
            generation=_generation(folder),
            files={path.name: file_entry(path) for path in sorted(work.iterdir())},
        )
        (work / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1) + "\n")
        if check is not None:
            check(Bundle(work))
        work.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        work.replace(out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return Bundle(out)


def model_name(model: str) -> str:
    """How a manifest names the base: a Hub id as it is, of a local path only the last part."""
    return Path(model).resolve().name if Path(model).exists() else model


def initial_exits(base: Checkpoint, blueprint: Blueprint, splits: list[int]) -> Tensors:
    """Untrained Balconies: the last layer and the final norm of the base (paper, section 3: initialisation)."""
    last = f"model.layers.{blueprint.arch.layers - 1}."
    layer = {name: base.tensor(f"{last}{name}") for name in blueprint.layer_shapes()}
    norm = base.tensor("model.norm.weight")
    tensors: dict[str, Array] = {}
    for split in splits:
        tensors |= {f"exits.{split}.layer.{name}": value for name, value in layer.items()}
        tensors[f"exits.{split}.norm.weight"] = norm
    return Tensors(tensors)


def _exits(
    exits: Path | str | None, splits: list[int] | None, base: Checkpoint, blueprint: Blueprint, folder: Path
) -> tuple[Tensors | None, dict[int, ExitQuality], list[int]]:
    """The exits' tensors, their measured quality and the splits, from what the caller named."""
    arch = blueprint.arch
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
    return (initial_exits(base, blueprint, chosen) if exits == "init" else None), {}, chosen


def _only(quality: dict[str, object], splits: list[int]) -> dict[str, object]:
    """A quality record without the exits that are not exported."""
    bins = json.loads(json.dumps(quality["bins"]))
    bins["agreement"] = {depth: row for depth, row in bins["agreement"].items() if int(depth) in splits}
    return {**quality, "bins": bins}


def _write_graphs(
    work: Path,
    base: Checkpoint,
    exits: Tensors | None,
    blueprint: Blueprint,
    splits: list[int],
    formats: Formats,
    exactness: Exactness,
) -> list[Graph]:
    entries: list[Graph] = []
    with closing(WeightFile(work)) as weights:

        def write(entry: Graph, build: Callable[..., None]) -> None:
            """The graph of an entry, and a second one for ONNX Runtime 1.23 where a window makes them differ."""
            builder = GraphBuilder(blueprint, weights, formats, exactness)
            build(builder, path=work / entry.file)
            legacy = None
            if builder.windowed:
                legacy = entry.file.replace(".onnx", ".ort123.onnx")
                build(GraphBuilder(blueprint, weights, formats, exactness, legacy=True), path=work / legacy)
            entries.append(entry.model_copy(update={"caches": builder.caches, "legacy_file": legacy}))

        for start, stop in pairwise([0, *splits, blueprint.arch.layers]):
            gates = exits if exits is not None and f"gates.{stop}.up.weight" in exits else None
            name = f"segment_{start}_{stop}.onnx"
            write(
                Graph(kind="segment", file=name, start=start, stop=stop, gate=gates is not None),
                partial(graphs.segment, base=base, gates=gates, start=start, stop=stop),
            )
        for split in splits if exits is not None else []:
            assert exits is not None
            write(
                Graph(kind="exit", file=f"exit_{split}.onnx", start=split, stop=split),
                partial(graphs.balcony_exit, exits=exits, split=split),
            )
        write(Graph(kind="head", file="head.onnx"), partial(graphs.head, base=base))
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


def _card(model: str, splits: list[int], precision: str) -> str:
    return (
        f"# {model_name(model)} with Balcony exits\n\n"
        f"A balcony-edge bundle: frozen base, exits at layers {', '.join(map(str, splits))}, {precision} weights.\n\n"
        '    balcony-edge run . --budget 40tok/s -p "Once upon a time"\n'
    )


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
