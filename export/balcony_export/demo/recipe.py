"""The recipe of the embedded demo bundle: tokenizer → base → exits → bundle, one command, resumable.

    python -m balcony_export.demo --data stories-simple.txt.xz

A step whose result exists is skipped, and one that was interrupted goes on from its last saved state. The results are
in ``export/demo`` (base and exits) and ``balcony_edge/demo`` (the bundle). Saved states are not under version control.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from balcony_export.bundling.writer import export_bundle
from balcony_export.data import corpus
from balcony_export.demo.pretrain import PretrainConfig, pretrain
from balcony_export.demo.tokenizer import train_tokenizer
from balcony_export.exits import store
from balcony_export.graphs.formats import ExportOptions
from balcony_export.model import architectures
from balcony_export.training.loop import TrainConfig
from balcony_export.training.run import Job, train_exits

SPLITS = (3, 6, 9)
EXIT_LENGTH = 256
# The settings of each training run that are not the defaults. Each run goes on from the exits of the one before.
TRAINING_RUNS: tuple[dict[str, Any], ...] = (
    {"steps": 1500},
    {"steps": 9000, "rows": 4, "temperature": 0.5, "learning_rate": 2e-3},
    {"only": (9,), "steps": 12_000, "rows": 4, "temperature": 0.5, "learning_rate": 2e-3},
)
NAME = "balcony-stories-2.5M"


def make_base(texts: list[Path], out: Path) -> Path:
    """Make the tokenizer and the pretrained base in ``out/base``; returns that folder."""
    config = PretrainConfig()
    folder = out / "base"
    if not (folder / "tokenizer.json").exists():
        documents = (text for text in corpus.read_documents(texts) if not corpus.is_heldout(text))
        train_tokenizer(documents, config.vocabulary, folder, config.context)
    if not (folder / "model.safetensors").exists():
        pretrain(config, texts, folder, out / "base-state")
    return folder


def make_exits(texts: list[Path], folder: Path, out: Path) -> Path:
    """Make the exits and gates of the base in ``out/exits``; returns that folder.

    There are three training runs. The first has the default loss. The second has a temperature below 1, after which
    more of an exit's tokens are the full model's (sharpness.py corrects the probabilities). The third trains the
    deepest exit alone, because its task is the hardest: one layer must do the work of three.
    """
    target = out / "exits"
    if (target / store.MANIFEST).exists():
        return target
    shape = architectures.read(folder).arch
    before: Path | None = None
    for number, settings in enumerate(TRAINING_RUNS, start=1):
        exits_folder = target if number == len(TRAINING_RUNS) else out / f"exits-stage-{number}"
        if not (exits_folder / store.MANIFEST).exists():
            job = Job(folder=folder, name=NAME, texts=tuple(texts), out=exits_folder, begin=before)
            train_exits(job, TrainConfig.for_base(shape, SPLITS, length=EXIT_LENGTH, **settings))
        before = exits_folder
    return target


def recipe(
    data: Annotated[list[Path], typer.Option(help="Story texts (plain, .xz or .gz). Repeatable.")],
    out: Annotated[Path, typer.Option(help="Base, exits and states.")] = Path("export/demo"),
    bundle: Annotated[Path, typer.Option(help="The bundle to write.")] = Path("balcony_edge/demo"),
) -> None:
    """Build the demo bundle from text alone."""
    folder = make_base(data, out)
    trained = make_exits(data, folder, out)
    export_bundle(folder, bundle, model=NAME, exits=trained, options=ExportOptions(precision="int8"))


def main() -> None:
    """The command line."""
    typer.run(recipe)
