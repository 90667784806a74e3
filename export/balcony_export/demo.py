"""The recipe of the embedded demo bundle: tokenizer → base → exits → bundle, one command, resumable.

    python -m balcony_export.demo --data stories-simple.txt.xz --out runs/demo

Each step writes a folder under ``--out`` and is skipped when its result stands; an interrupted step goes on from its
last saved state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from balcony_export import corpus
from balcony_export.pretrain import PretrainConfig, pretrain
from balcony_export.tokenizer import train_tokenizer


def base(texts: list[Path], out: Path) -> Path:
    """The tokenizer and the pretrained base under ``out/base``; returns that folder."""
    config = PretrainConfig()
    folder = out / "base"
    if not (folder / "tokenizer.json").exists():
        documents = (text for text in corpus.documents(texts) if not corpus.is_heldout(text))
        train_tokenizer(documents, config.vocabulary, folder, config.context)
    if not (folder / "model.safetensors").exists():
        pretrain(config, texts, folder, out / "base-state")
    return folder


def recipe(
    data: Annotated[list[Path], typer.Option(help="Story texts (plain, .xz or .gz).")],
    out: Annotated[Path, typer.Option(help="Work folder.")] = Path("runs/demo"),
) -> None:
    """Build the demo bundle from text alone."""
    base(data, out)


if __name__ == "__main__":
    typer.run(recipe)
