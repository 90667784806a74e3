"""``balcony-edge export --through-torch``: a bundle whose graphs are made by torch's exporter.

This is for families that have no graphs of their own. The bundle is kept only if it equals its model.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from balcony_edge.bundle.atomic_folder import whole_folder
from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import Formats, Graph
from balcony_edge.errors import ModelError, VerifyError
from balcony_export.bundling.writer import copy_small_files, seal
from balcony_export.graphs.weights import WeightFile
from balcony_export.model.architectures import check_splits
from balcony_export.model.config.completed import read_config
from balcony_export.model.families import FAMILIES
from balcony_export.model.generation_config import check_tokenizer, read_generation
from balcony_export.model.tensor_source import open_checkpoint
from balcony_export.model.transformers_model import load_frozen
from balcony_export.verification.report import Verification, explain, next_step
from balcony_export.verification.verify import verify


def export_through_torch(
    folder: Path,
    out: Path,
    *,
    model: str,
    init_exits: bool = False,
    splits: list[int] | None = None,
    context: int | None = None,
) -> tuple[Bundle, Verification]:
    """Export the model in ``folder`` to the bundle ``out``, in fp32 for the CPU; returns it and how it was verified.

    ``splits`` None: after each quarter of the layers. ``init_exits``: with untrained exits there. The whole model is in
    memory, twice while it is verified. Raises ModelError for a model that torch cannot export or that has graphs of its
    own, VerifyError if the exported graphs do not equal the model.
    """
    _check(folder)
    with _quietly():
        # Imported here because torch's exporter takes seconds to import. Its many warnings do not matter here.
        from balcony_export.graphs import torch_graphs

        loaded = load_frozen(folder)
        arch = torch_graphs.read_architecture(loaded, context)
        chosen = check_splits(splits, arch.layers) if splits else []
        if splits is None:
            chosen = sorted({max(1, arch.layers * part // 4) for part in (1, 2, 3)} - {arch.layers})
        with whole_folder(out) as work:
            graphs = []

            def keep(entry: Graph, made: torch_graphs.TorchGraph) -> None:
                (work / entry.file).write_bytes(made.content)
                graphs.append(entry.model_copy(update={"weight_bytes": made.weight_bytes}))

            with closing(WeightFile(work)) as weights:
                for start, stop in pairwise([0, *chosen, arch.layers]):
                    entry = Graph(
                        kind="segment", file=f"segment_{start}_{stop}.onnx", start=start, stop=stop, caches=stop - start
                    )
                    keep(entry, torch_graphs.trunk_graph(loaded, arch, weights, start, stop))
                if init_exits and chosen:
                    # All exits are copies of one layer, so they have the same graph.
                    made = torch_graphs.exit_graph(loaded, arch, weights)
                    for split in chosen:
                        keep(Graph(kind="exit", file=f"exit_{split}.onnx", start=split, stop=split, caches=1), made)
                keep(Graph(kind="head", file="head.onnx"), torch_graphs.head_graph(loaded, arch, weights))
            del loaded
            copy_small_files(folder, work)
            bundle = seal(
                work,
                folder,
                model,
                architecture=arch,
                splits=chosen,
                formats=Formats(),
                exactness="float",
                graphs=graphs,
                quality={},
                generation=read_generation(folder),
            )
            found = verify(bundle, folder)
            if (failure := found.first_failure) is not None:
                raise VerifyError(
                    f"traced by torch, {found.model} is not what it was, and no bundle was made: {explain(failure)}",
                    next_step(failure, "use a family that has graphs of its own"),
                )
    return Bundle(out), found


def _check(folder: Path) -> None:
    """Raise ModelError for a model that should not or cannot be exported this way."""
    if find_spec("onnxscript") is None:
        raise ModelError("torch's exporter needs the package onnxscript", "run pip install 'balcony-edge[train]'")
    name = read_config(folder).get("model_type")
    if name in FAMILIES:
        raise ModelError(f"{name} models have graphs of their own, which are faster", "leave --through-torch out")
    # Raises for pickles, adapters and broken files, with a message that names them.
    open_checkpoint(folder)
    check_tokenizer(folder)


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the warnings and logs of torch's exporter and transformers inside the block."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "transformers")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
