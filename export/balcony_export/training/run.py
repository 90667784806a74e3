"""One training run, as ``balcony-edge train`` starts it: from a base and text to a folder of trained exits."""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from balcony_edge.errors import ExitsError, ModelError
from balcony_export.data import corpus, documents, self_text, training_text
from balcony_export.data.instructions import Starts, Template, read_instructions
from balcony_export.data.own_documents import ROWS_AT_ONCE, Document, Writer
from balcony_export.data.rows import Rows
from balcony_export.data.training_text import TrainingText
from balcony_export.exits import store
from balcony_export.exits.balcony import NORM_STARTS, STARTS, Balconies, build, starting_norm
from balcony_export.exits.gate import Gate, frequent_tokens
from balcony_export.exits.widths import check_layers, check_width
from balcony_export.model import architectures
from balcony_export.model.base import TORCH_DTYPES, Base, load_base
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.checkpoint import Array
from balcony_export.model.config.completed import read_config
from balcony_export.model.generation_config import read_generation
from balcony_export.model.tokenizer.loaded import boundary_ids, load_tokenizer
from balcony_export.progress import minutes
from balcony_export.training import quality, run_folder
from balcony_export.training.arithmetic import base_operations, exit_operations, matmul_rate, training_memory
from balcony_export.training.distill import distill
from balcony_export.training.kept_states import KeptStates
from balcony_export.training.loop import TrainConfig
from balcony_export.training.processes import Processes
from balcony_export.training.quality import measured_rows, observe
from balcony_export.training.run_folder import Metrics, Saving
from balcony_export.training.sharpness import fit_sharpness
from balcony_export.verification.config_reading import check_config

# Taken to be the length of a token, to know how much of a streamed data set a run needs to see each token about once.
CHARACTERS_A_TOKEN = 5


@dataclass(frozen=True)
class Job:
    """What to train on, and where to write it."""

    folder: Path
    """The base, a local model folder."""
    name: str
    """The base's name in exits.json."""
    texts: tuple[Path, ...]
    """Files, ``hub:owner/name`` (see corpus.read_documents), and ``self`` (see self_text.py)."""
    out: Path
    heldout: tuple[Path, ...] = ()
    """Held-out text; (): some of ``texts`` is held out."""
    device: str = "auto"
    save_every: int = 200
    """Steps from one saved state to the next."""
    shard_base: bool = False
    """Whether several processes spread the base's layers among them; otherwise each holds all of the base."""
    begin: Path | None = None
    """A folder of trained exits to go on from; None: exits begin as copies of a base layer."""
    self_tokens: int | None = None
    """How many tokens the base writes for ``self``; None: as many as the run takes in, up to self_text.MAX_TOKENS."""
    self_share: float = 0.75
    """How much of the rows to learn from is the base's own text, where there is other text beside it."""
    prompts: Path | None = None
    """Instructions that the base replies to for ``self`` (see instructions.py); None: it makes up its own."""
    states: Path | None = None
    """Where the base's states are kept; None: in ``out``."""
    states_bytes: int = 0
    """How large they may be. Used if the configuration keeps states."""


def train_exits(job: Job, config: TrainConfig) -> store.Exits:
    """Train the exits, fit gates and judges, measure all, and write the folder ``job.out``.

    A run that was interrupted goes on from its last saved state. In several processes (see processes.py) all return the
    same exits and the first one writes them; all must see the same folder ``job.out``. Raises ModelError, DataError or
    ExitsError for input that cannot be used, BalconyError if the folder holds another run's state.
    """
    started = time.monotonic()
    processes = Processes.launched(job.device)
    blueprint = architectures.read(job.folder)
    config = replace(config, splits=tuple(architectures.check_splits(list(config.splits), blueprint.arch.layers)))
    check_settings(job, config, blueprint, processes)
    digest = store.base_digest(job.folder)
    # Loaded when first needed: unusable input is refused before that.
    check_config(job.folder, blueprint.arch)
    get_base = cache(lambda: load_base(job.folder, config.dtype, str(processes.device or job.device)))
    text = load_text(job, config, blueprint.arch.vocabulary, digest, get_base, processes)
    config = replace(config, length=text.train.length).suited_to(len(text.train))
    earlier = None if job.begin is None else _earlier(job.begin, job.folder, config)
    identity = _identity(config, digest, text, earlier)
    saving = Saving(job.out / "state" / "exits.safetensors", job.save_every, identity)
    saving.check()
    base = get_base()
    if processes.first:
        names, count = documents.source_names(job.texts), processes.count
        asked = {"base": job.name, "data": names, "processes": count, "training": config.as_dict()}
        run_folder.prepare(job.out, asked)
    processes.wait()
    metrics = Metrics(job.out / "metrics.jsonl" if processes.first else None)

    width = check_width(config.width)
    balconies = build(base, config.splits, config.norm_start, width, config.start, config.exit_layers)
    if earlier is not None:
        balconies.load(earlier)
    if job.shard_base:
        processes.share_layers(base.model.model.layers)
    to_train = balconies.some(config.only or config.splits)
    heldout = text.heldout.spread(measured_rows(blueprint, text.heldout, len(config.splits), quality.MAX_TOKENS))
    kept = _kept_states(job, config, digest, text.train, blueprint.arch.hidden, processes)
    if processes.first:
        _announce(config, blueprint, base, to_train.splits, len(text.train), kept)
    distill(base, to_train, text.train, heldout, config, metrics, saving, processes, kept)
    if config.temperature != 1.0:
        fit_sharpness(base, to_train, heldout[::2])
    tokens = frequent_tokens(text.train.token_counts(blueprint.arch.vocabulary))
    own_rows = measured_rows(blueprint, text.own or heldout, len(config.splits), quality.MAX_OWN_TOKENS)
    own = text.own.spread(own_rows) if text.own is not None else quality.own_rows(base, heldout, own_rows)
    seen, replied = (observe(base, balconies, tokens, rows, lens) for rows, lens in ((heldout, True), (own, False)))
    gates, measured = quality.calibrate(seen, replied)
    trained = store.Exits(
        splits=config.splits,
        base_model=job.name,
        base_sha256=digest,
        training={
            **config.as_dict(),
            "seconds": round(time.monotonic() - started, 1),
            **({} if earlier is None else {"begun_as": dict(earlier.training)}),
        },
        quality=measured,
        tensors=_tensors(balconies, gates),
        frequent_tokens=tokens,
    )
    if processes.first:
        store.save(job.out, trained)
        run_folder.draw(job.out)
    return trained


def _earlier(begin: Path, folder: Path, config: TrainConfig) -> store.Exits:
    """The trained exits to go on from. Raises ExitsError unless they belong to this base and have the run's splits."""
    earlier = store.load(begin)
    earlier.check_base(folder)
    if missing := sorted(set(config.splits) - set(earlier.splits)):
        raise ExitsError(
            f"{begin} has exits at {list(earlier.splits)}, none at {missing[0]}", "ask for some of its splits"
        )
    if earlier.width != config.width:
        raise ExitsError(
            f"the exits of {begin} are of width {earlier.width}, not {config.width}", f"use --width {earlier.width}"
        )
    if (layers := len(earlier.layers)) != config.exit_layers:
        raise ExitsError(
            f"the exits of {begin} have {layers} layers, not {config.exit_layers}", f"use --exit-layers {layers}"
        )
    return earlier


def check_settings(job: Job, config: TrainConfig, blueprint: Blueprint, processes: Processes) -> None:
    """Raise ModelError for settings that no run on this base can use."""
    context = blueprint.arch.context
    choices = (
        ("start", config.start, STARTS),
        ("norm start", config.norm_start, NORM_STARTS),
        ("dtype", config.dtype, tuple(TORCH_DTYPES)),
    )
    for what, chosen, known in choices:
        if chosen not in known:
            raise ModelError(f"there is no {what} {chosen!r}", f"choose one of {', '.join(known)}")
    if unknown := sorted(set(config.only) - set(config.splits)):
        raise ModelError(f"--only {unknown[0]} is none of the splits {list(config.splits)}", "name some of them")
    if config.only and job.begin is None:
        raise ModelError("--only leaves the other exits as they begin, which is untrained", "give --from EXITS too")
    starting_norm(blueprint, config.norm_start)
    check_layers(config.exit_layers, check_width(config.width))
    _ = config.loss_function
    if not 0 < config.learning_rate < math.inf:
        raise ModelError(f"--lr {config.learning_rate} is no learning rate", "use a small number, such as --lr 1e-3")
    if (config.loss_vocabulary or config.keeps_states) and not config.near_kl:
        raise ModelError(
            f"--loss-vocabulary and --cache-states know the loss kl at temperature 1 alone, not {config.loss}",
            "use --loss-vocabulary 0 --cache-states 0",
        )
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


def load_text(
    job: Job,
    config: TrainConfig,
    vocabulary: int,
    base_sha256: str,
    get_base: Callable[[], Base],
    processes: Processes,
) -> TrainingText:
    """The text that ``job`` names, as rows; the base writes its own where it has not yet.

    Raises DataError and ModelError for text that cannot be used.
    """
    tokenizer = load_tokenizer(job.folder)
    ends = boundary_ids(tokenizer, read_config(job.folder))
    render = documents.renderer(tokenizer)
    own = self_text.own_sources(job.texts)
    others = [path for path in job.texts if path not in own]
    streamed = CHARACTERS_A_TOKEN * config.steps * config.rows * config.length

    def read(paths: Sequence[Path], heldout: Sequence[Path]) -> corpus.Corpus:
        data = corpus.load(paths, tokenizer, *ends, heldout, render, streamed)
        for stream in (data.train, data.heldout):
            if len(stream) and stream.max() >= vocabulary:
                raise ModelError(
                    f"the tokenizer of {job.folder} makes token {stream.max()}; the model has only {vocabulary}",
                    "the tokenizer belongs to another model: download the folder again",
                )
        return data

    if not own:
        return training_text.of_text(read(others, job.heldout), config.length)
    text = training_text.of_text(read(others, ()), config.length).train if others else None
    template = Template.of(tokenizer)
    written = _write_own(job, config, base_sha256, get_base, processes, own[0], ends, tokenizer, template)
    found = training_text.of_documents(written, config.length, template is not None)
    if job.heldout:
        given = Rows.of_stream(read((), job.heldout).heldout, config.length)
        found = replace(found, heldout=given)
    return found if text is None else training_text.mixed(found, text, job.self_share)


def _write_own(
    job: Job,
    config: TrainConfig,
    base_sha256: str,
    get_base: Callable[[], Base],
    processes: Processes,
    source: Path,
    ends: tuple[int, int | None],
    tokenizer: Any,
    template: Template | None,
) -> list[Document]:
    """The base's own documents, which the first process writes and the others then read from its file."""
    tokens = job.self_tokens or min(config.steps * config.rows * config.length, self_text.MAX_TOKENS)
    path = self_text.named_file(source) or job.out / "state" / "self.jsonl"
    asked = [] if job.prompts is None else read_instructions(job.prompts)
    end, start = ends
    starts = Starts(template, asked, end if start is None else start, config.length // 2)
    stops = sorted({end, *read_generation(job.folder).eos_token_ids})
    identity = {
        "base_sha256": base_sha256,
        "dtype": config.dtype,
        "length": config.length,
        "seed": config.seed,
        "instructions_sha256": hashlib.sha256("\0".join(asked).encode()).hexdigest(),
    }

    def write() -> list[Document]:
        writer = Writer(get_base(), ROWS_AT_ONCE, config.length, stops, template, config.seed)
        return self_text.write(writer, starts, tokens, path, identity)

    found = write() if processes.first else []
    processes.wait()
    return found if processes.first else write()


def _kept_states(
    job: Job, config: TrainConfig, base_sha256: str, rows: Rows, hidden: int, processes: Processes
) -> KeptStates | None:
    if not config.keeps_states:
        return None
    trained = config.only or config.splits
    identity = {"base_sha256": base_sha256, "dtype": config.dtype, "rows_sha256": rows.digest}
    folder = job.states or job.out / "state" / "base"

    def opened() -> KeptStates:
        return KeptStates(folder, identity, trained, len(rows), rows.length, hidden, job.states_bytes)

    kept = opened() if processes.first else None
    processes.wait()
    return kept or opened()


def _announce(
    config: TrainConfig, blueprint: Blueprint, base: Base, splits: Sequence[int], rows: int, kept: KeptStates | None
) -> None:
    """Say on stderr what the run will take; training reaches half of the best rate (benchmarks/train_speed.py)."""
    exits, tokens = len(splits), config.rows * config.length
    # How much of what is taken is run through the base.
    passes = 1.0 if kept is None else min(1.0, rows / (config.steps * config.rows))
    head_rows = config.loss_vocabulary or blueprint.arch.vocabulary
    operations = exits * exit_operations(blueprint, check_width(config.width), head_rows, config.exit_layers)
    operations += passes * base_operations(blueprint)
    seconds = config.steps * tokens * operations / (0.5 * matmul_rate(base.dtype, base.device))
    layers, piece = exits * config.exit_layers, tokens // config.accumulate
    memory = training_memory(blueprint, layers, piece, base.dtype.itemsize, head_rows)
    disk = "" if kept is None else f", {kept.bytes / 1e9:.1f} GB of disk for the base's states"
    print(
        f"training {exits} exits: {config.steps:,} steps of {tokens:,} tokens in {config.dtype}, about "
        f"{minutes(seconds)} and {memory / 1e9:.1f} GB of memory{disk}",
        file=sys.stderr,
        flush=True,
    )


def _identity(config: TrainConfig, base_sha256: str, text: TrainingText, earlier: store.Exits | None) -> dict[str, Any]:
    """What must be the same for a run to go on from a saved state: settings, base, text and earlier exits."""
    begun = {} if earlier is None else {"begin_sha256": store.tensors_digest(earlier)}
    return {**config.as_dict(), "base_sha256": base_sha256, "text_sha256": text.train.digest, **begun}


def _tensors(balconies: Balconies, gates: Mapping[int, Gate]) -> dict[str, Array]:
    """Exits and gates under the names that exits.safetensors has for them."""
    layers = balconies.state_dict().items()
    named = {f"exits.{name}": value.detach().cpu().numpy().astype(np.float32) for name, value in layers}
    for split, gate in gates.items():
        named |= {f"gates.{split}.{name}": value for name, value in gate.tensors().items()}
    return named
