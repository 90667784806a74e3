"""From a base and text to a folder of trained exits: what stands behind ``balcony-edge train``."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from balcony_edge.errors import DataError, ModelError
from balcony_export import architectures, corpus, exits, quality, run_folder
from balcony_export.balcony import NORM_STARTS, STARTS, Balconies, build, starting_norm
from balcony_export.base import DTYPES, boundary_ids, load_base, load_tokenizer
from balcony_export.blueprint import Blueprint
from balcony_export.distill import distill
from balcony_export.gate import Gates, train_gates
from balcony_export.processes import Processes
from balcony_export.run_folder import Metrics, Saving
from balcony_export.training import TrainConfig
from balcony_export.widths import check_width

MIN_LENGTH = 8


@dataclass(frozen=True)
class Job:
    """What to train on, and where to write it."""

    folder: Path
    """The base, a local model folder."""
    name: str
    """What exits.json calls the base."""
    texts: tuple[Path, ...]
    out: Path
    heldout: tuple[Path, ...] = ()
    device: str = "auto"
    save_every: int = 200


def train_exits(job: Job, config: TrainConfig) -> exits.Exits:
    """Distil the exits, train and calibrate the gates, measure, write the folder. Resumes by itself.

    In several processes (see processes.py) all return the same exits, and the first one writes them; ``job.out`` must
    then be a folder that all of them see.
    """
    started = time.monotonic()
    processes = Processes.launched(job.device)
    blueprint = architectures.read(job.folder)
    config = replace(config, splits=tuple(architectures.check_splits(list(config.splits), blueprint.arch.layers)))
    _check(config, blueprint, processes)
    data = _load_corpus(job, blueprint.arch.vocabulary)
    config = replace(config, length=_fitting(data.train, config.length, "training"))
    rows = quality.heldout_rows(data.heldout, _fitting(data.heldout, config.length, "held-out"))
    digest = exits.base_digest(job.folder)
    saving = Saving(job.out / "state" / "exits.safetensors", job.save_every, _identity(config, digest, data))
    saving.check()
    base = load_base(job.folder, config.dtype, str(processes.device or job.device))
    if processes.first:
        names = [path.name for path in job.texts]
        asked = {"base": job.name, "data": names, "processes": processes.count, "training": config.as_dict()}
        run_folder.prepare(job.out, asked)
    processes.wait()
    metrics = Metrics(job.out / "metrics.jsonl" if processes.first else None)

    balconies = build(base, config.splits, config.norm_start, check_width(config.width), config.start)
    distill(base, balconies, data.train, rows, config, metrics, saving, processes)
    gates = train_gates(base, balconies, data.train, config, metrics, processes)
    measured = quality.calibrate(quality.observe(base, balconies, gates, rows), gates)
    trained = exits.Exits(
        splits=config.splits,
        base_model=job.name,
        base_sha256=digest,
        training={**config.as_dict(), "seconds": round(time.monotonic() - started, 1)},
        quality=measured,
        tensors=_tensors(balconies, gates),
    )
    if processes.first:
        exits.save(job.out, trained)
        run_folder.draw(job.out)
    return trained


def _check(config: TrainConfig, blueprint: Blueprint, processes: Processes) -> None:
    """Settings that no run on this base could use."""
    context = blueprint.arch.context
    choices = (
        ("start", config.start, STARTS),
        ("norm start", config.norm_start, NORM_STARTS),
        ("dtype", config.dtype, tuple(DTYPES)),
    )
    for what, chosen, known in choices:
        if chosen not in known:
            raise ModelError(f"there is no {what} {chosen!r}", f"choose one of {', '.join(known)}")
    starting_norm(blueprint, config.norm_start)
    check_width(config.width)
    _ = config.loss_function
    if not 0 < config.learning_rate < math.inf:
        raise ModelError(f"--lr {config.learning_rate} is no learning rate", "use a small number, such as --lr 1e-3")
    if config.rows < processes.count:
        raise ModelError(
            f"{config.rows} rows a step are too few for {processes.count} processes",
            "give every process --rows of its own",
        )
    if config.length > context:
        raise ModelError(
            f"--length {config.length} is longer than the {context} tokens that the model was made for",
            f"use --length {context} or less",
        )


def _load_corpus(job: Job, vocabulary: int) -> corpus.Corpus:
    tokenizer = load_tokenizer(job.folder)
    end, start = boundary_ids(tokenizer, architectures.read_config(job.folder))
    data = corpus.load(job.texts, tokenizer, end, start, job.heldout)
    for stream in (data.train, data.heldout):
        if len(stream) and stream.max() >= vocabulary:
            raise ModelError(
                f"the tokenizer of {job.folder} makes token {stream.max()}; the model has only {vocabulary}",
                "the tokenizer belongs to another model: download the folder again",
            )
    return data


def _fitting(stream: corpus.Tokens, wanted: int, what: str) -> int:
    """The row length that gives a short text at least two rows. Raises DataError if there is hardly any."""
    length = min(wanted, len(stream) // 2)
    if length < MIN_LENGTH:
        raise DataError(
            f"the {what} text has {len(stream)} tokens; at least {2 * MIN_LENGTH} are needed",
            "give more text with --heldout FILE" if what == "held-out" else "give more text with --data FILE",
        )
    return length


def _identity(config: TrainConfig, base_sha256: str, data: corpus.Corpus) -> dict[str, Any]:
    """What must be the same for a saved state to be continued. The gates start afresh each time."""
    settings = {name: value for name, value in config.as_dict().items() if not name.startswith("gate_")}
    text = hashlib.sha256(data.train.tobytes()).hexdigest()
    return {**settings, "base_sha256": base_sha256, "text_sha256": text}


def _tensors(balconies: Balconies, gates: Gates) -> dict[str, exits.Array]:
    """Exits and gates under the names of exits.safetensors."""
    named = {f"exits.{name}": value for name, value in balconies.state_dict().items()}
    named |= {f"gates.{name}": value for name, value in gates.state_dict().items()}
    return {name: value.detach().cpu().numpy().astype(np.float32) for name, value in named.items()}
