"""Write the bundle of a frozen base and its exits to disk: completely, or not at all."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from balcony_edge.bundle.atomic_folder import whole_folder
from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import (
    CARD_NAME,
    MANIFEST_NAME,
    SCHEMA_VERSION,
    BaseInfo,
    Exactness,
    ExitQuality,
    Formats,
    Generation,
    Manifest,
    file_entry,
)
from balcony_edge.errors import ModelError
from balcony_export.bundling import card, held_types
from balcony_export.bundling.exit_source import find_exits
from balcony_export.bundling.thin import recipe
from balcony_export.exits.store import base_digest
from balcony_export.graphs import cache_scales, interchange, kept
from balcony_export.graphs.activation_range import check_range
from balcony_export.graphs.assembly import Parts, WrittenGraph, write_graphs
from balcony_export.graphs.builder import CacheScales
from balcony_export.graphs.formats import ExportOptions
from balcony_export.graphs.rounding import block_of
from balcony_export.graphs.weights import BITS, WeightFile
from balcony_export.model import architectures, chat_templates
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.checkpoint import Array
from balcony_export.model.config.completed import read_config
from balcony_export.model.config.refused import no_head
from balcony_export.model.download import base_name
from balcony_export.model.generation_config import check_tokenizer, read_generation
from balcony_export.model.tensor_source import BaseTensors, open_checkpoint
from balcony_export.model.tokenizer.file import prepare

DEFAULT = ExportOptions()
COPIED = [
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"),
    *(*card.LICENCES, "NOTICE"),
]

# How many rows of a head are compared with the embedding's at a time.
COMPARED_ROWS = 4096


@dataclass(frozen=True)
class Written:
    """What was written of a bundle, or in a dry run would be."""

    graphs: list[WrittenGraph]
    full_bytes: int
    """The size of the uncut graph for onnxruntime-genai."""
    weight_bytes: int
    """The size of the weights file that all graphs share."""


@dataclass(frozen=True)
class Plan:
    """All that is known of an export before any weight is read; made by ``plan_export``."""

    folder: Path
    blueprint: Blueprint
    parts: Parts
    options: ExportOptions
    formats: Formats
    quality: dict[int, ExitQuality]
    generation: Generation
    exactness: Exactness = "bit"
    training: Mapping[str, Any] | None = None
    """How the exits were trained, for the card."""
    guesses: tuple[float, ...] = ()
    """How often the draft stage's guesses in a row are right."""
    loss: str | None = None
    """What is lost of a base that is quantised already, as a sentence."""

    def write(
        self, folder: Path | None, weights: WeightFile, formats: Formats, scales: CacheScales | None = None
    ) -> Written:
        """Write every graph, and the weights that are not in ``weights`` yet. Folder None: nothing is read or written.

        ``formats`` may differ from the plan's in the KV cache; ``scales`` are those of an int8 one.
        """
        graphs = write_graphs(folder, weights, self.blueprint, self.parts, formats, self.exactness, scales)
        full = interchange.write_full(folder, weights, self.blueprint, self.parts, formats)
        return Written(graphs, full, weights.size)

    def dry_run(self) -> Written:
        """What ``write`` would write."""
        weights, scales = WeightFile(None), dict[str, tuple[Array, Array]]()
        if self.formats.cache == "int8":
            self.write(None, weights, self.float_cache_formats)
            unknown = np.ones((1, self.blueprint.arch.kv_heads, 1, self.blueprint.arch.head_dim), np.float32)
            scales = defaultdict(lambda: (unknown, unknown))
        return self.write(None, weights, self.formats, scales)

    @property
    def float_cache_formats(self) -> Formats:
        """The plan's formats, but with a KV cache of the activations' type, which needs no scales."""
        return self.formats.model_copy(update={"cache": self.formats.activations})


def plan_export(
    folder: Path,
    *,
    exits: Path | str | None = None,
    splits: list[int] | None = None,
    options: ExportOptions = DEFAULT,
    context: int | None = None,
) -> Plan:
    """Check all that can be checked without reading weights. Arguments and errors are those of ``export_bundle``."""
    read_config(folder)
    base = open_checkpoint(folder)
    blueprint = _with_own_head(architectures.read(folder, context), base)
    arch, formats = blueprint.arch, options.formats()
    size = block_of(arch.hidden, formats.block_size)
    if formats.head in BITS and arch.hidden % size:
        raise ModelError(
            f"the model's hidden size {arch.hidden} cannot be cut into blocks of {size} weights",
            "choose --block-size 16 or --head fp32",
        )
    check_tokenizer(folder)
    generation = read_generation(folder)
    _check_tensors(base, blueprint)
    found = find_exits(exits, splits, base, blueprint, folder)
    kept_forms = held_types.forms(base, blueprint, formats, "keep")
    kept.check(kept_forms, formats.activations)
    formats = formats.model_copy(update={"kept": held_types.names(kept_forms)})
    exactness = options.attention(kept.is_bit_exact(kept_forms))
    parts = Parts(base, found.source, found.splits, found.frequent_tokens, keeper=kept.Kept(exactness))
    return Plan(
        folder,
        blueprint,
        parts,
        options,
        formats,
        found.quality,
        generation,
        exactness,
        found.training,
        found.guesses,
        held_types.loss(base, blueprint, formats),
    )


def _with_own_head(blueprint: Blueprint, base: BaseTensors) -> Blueprint:
    """The blueprint; its head is not tied if the checkpoint has one that differs, whatever the config says.

    transformers 5 takes such a model in this way.
    """
    names = ("model.embed_tokens.weight", "lm_head.weight")
    if not blueprint.arch.tied_head or any(name not in base for name in names):
        return blueprint
    count = blueprint.arch.vocabulary
    for name in names:
        base.expect(name, (count, blueprint.arch.hidden))
    for start in range(0, count, COMPARED_ROWS):
        embedding, head = (base.rows(name, start, min(start + COMPARED_ROWS, count)) for name in names)
        if not np.array_equal(embedding, head):
            return replace(blueprint, arch=blueprint.arch.model_copy(update={"tied_head": False}))
    return blueprint


def _check_tensors(base: BaseTensors, blueprint: Blueprint) -> None:
    """Raise ModelError unless the checkpoint has all tensors in their shapes, and none that the graphs do not use."""
    shapes = blueprint.base_shapes()
    if "lm_head.weight" in shapes and "lm_head.weight" not in base:
        raise no_head(base.folder)
    for name, shape in shapes.items():
        base.expect(name, shape)
    # Unused but harmless: a second copy of a tied head, and rope frequencies, which the config gives as well.
    harmless = {"lm_head.weight"} if blueprint.arch.tied_head else set()
    unused = [name for name in base.names() if name not in shapes and name not in harmless]
    unused = [name for name in unused if not name.endswith("rotary_emb.inv_freq") and not _adds_nothing(base, name)]
    if unused:
        raise ModelError(
            f"{base.folder} holds {len(unused)} tensors that a {blueprint.arch.family} model does not use, "
            f"as {unused[0]}: exported without them it would be another model",
            "check that config.json belongs to these weights; merge adapters into them before the export",
        )


def _adds_nothing(base: BaseTensors, name: str) -> bool:
    """Whether a tensor is a bias of zeros, which some quantisers give to every projection."""
    return name.endswith("_proj.bias") and len(base.shape(name)) == 1 and not base.tensor(name).any()


def export_bundle(
    folder: Path,
    out: Path,
    *,
    model: str,
    exits: Path | str | None = None,
    splits: list[int] | None = None,
    options: ExportOptions = DEFAULT,
    context: int | None = None,
) -> Bundle:
    """Export the model in ``folder`` to the bundle ``out``, and open it.

    ``model``: the base's name in the manifest, a Hub id or a path. ``exits``: a folder of trained exits, "init" for
    copies of the base's last layer, or None for a bundle without exits. ``splits``: layers after which the base is cut;
    None: those of the trained exits, or after each quarter of the layers. ``context``: fewer positions than the model
    has. Raises ModelError or ExitsError for input that does not fit.
    """
    plan = plan_export(folder, exits=exits, splits=splits, options=options, context=context)
    return write_bundle(plan, out, model=model)


def write_bundle(
    plan: Plan,
    out: Path,
    *,
    model: str,
    progress: Callable[[int], None] | None = None,
    check: Callable[[Bundle], None] | None = None,
    cache_text: Path | None = None,
) -> Bundle:
    """Carry out a plan. A bundle that is at ``out`` already is replaced only once the new one is complete.

    ``progress`` is called with the bytes of weights written so far. ``check`` is called with the new bundle before it
    is put in place; if it raises, nothing is left behind. ``cache_text``: the text for the scales of an int8 KV cache,
    see cache_scales.measure_scales.
    """
    with whole_folder(out) as work:
        copy_small_files(plan.folder, work)
        (work / interchange.CONFIG_NAME).write_text(
            interchange.config(plan.blueprint.arch, plan.formats, plan.generation)
        )
        with closing(WeightFile(work, progress)) as weights:
            scales = None
            if plan.formats.cache == "int8":
                # The scales are measured on the same graphs with a float cache. The weights written for these stay.
                graphs = plan.write(work, weights, plan.float_cache_formats).graphs
                weights.flush()
                with_floats = _finish(plan, work, weights, graphs, plan.float_cache_formats, model)
                if plan.formats.activations == "fp16":
                    check_range(with_floats)
                scales = cache_scales.measure_scales(with_floats, cache_text)
                (work / MANIFEST_NAME).unlink()
                (work / CARD_NAME).unlink()
            graphs = plan.write(work, weights, plan.formats, scales).graphs
        bundle = _finish(plan, work, weights, graphs, plan.formats, model)
        if plan.formats.activations == "fp16" and scales is None:
            check_range(bundle)
        if check is not None:
            check(bundle)
    return Bundle(out)


def _finish(
    plan: Plan, work: Path, weights: WeightFile, graphs: list[WrittenGraph], formats: Formats, model: str
) -> Bundle:
    """Make a bundle of what is in ``work``."""
    exits = plan.parts.exits
    kind: Literal["trained", "init", "none"] = (
        "none" if exits is None else "init" if plan.training is None else "trained"
    )
    return seal(
        work,
        plan.folder,
        model,
        plan.training,
        architecture=plan.blueprint.arch,
        splits=plan.parts.splits,
        formats=formats,
        exactness=plan.exactness,
        minimum_onnxruntime=plan.options.minimum_onnxruntime(),
        graphs=[item.entry for item in graphs],
        quality=plan.quality,
        guesses=list(plan.guesses),
        generation=plan.generation,
        recipe=recipe(work, weights.places, kind, plan.parts.quantiser.rounding),
    )


def copy_small_files(folder: Path, work: Path) -> None:
    """Copy the tokenizer, the chat template and the licence of a model from ``folder`` to ``work``.

    Where transformers does not take the tokenizer as it is, the bundle gets what transformers makes of it.
    """
    for name in COPIED:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, work / name)
    if (rebuilt := prepare(folder)) is not None:
        (work / "tokenizer.json").write_text(rebuilt, encoding="utf-8")
    if (settings := chat_templates.settings_with_templates(folder)) is not None:
        (work / "chat_template.jinja").unlink(missing_ok=True)
        (work / "tokenizer_config.json").write_text(settings, encoding="utf-8")


def small_files_bytes(folder: Path) -> int:
    """How many bytes ``copy_small_files`` makes of the model in ``folder``."""
    with TemporaryDirectory() as work:
        copy_small_files(folder, Path(work))
        return sum(path.stat().st_size for path in Path(work).iterdir())


def seal(work: Path, folder: Path, model: str, training: Mapping[str, Any] | None = None, **fields: Any) -> Bundle:
    """Write the card and the manifest for the files in ``work``, and open it as a bundle.

    ``folder`` and ``model``: the base and its name. ``training``: see Exits, for the card. ``fields``: all fields of
    the manifest but version, base and files.
    """
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        base=BaseInfo(model=base_name(model, folder), sha256=base_digest(folder)),
        files={path.name: file_entry(path) for path in sorted(work.iterdir())},
        **fields,
    )
    (work / CARD_NAME).write_text(card.render(manifest, card.licence(folder), training), encoding="utf-8")
    (work / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1) + "\n")
    return Bundle(work)
