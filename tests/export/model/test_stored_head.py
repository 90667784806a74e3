"""A config that says "tied" beside a checkpoint that stores a head of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from balcony_edge.errors import ModelError
from balcony_export.bundling.writer import export_bundle
from balcony_export.verification.verify import verify
from helpers.uncut import reference

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def with_head(tiny_model: Path, folder: Path, change: float, rows: int | None = None) -> Path:
    """The tiny model, whose checkpoint also has a head: the embedding with ``change`` added to its last row."""
    shutil.copytree(tiny_model, folder)
    tensors = load_file(folder / "model.safetensors")
    head = tensors[EMBEDDING][:rows].clone()
    head[-1] += change
    save_file({**tensors, HEAD: head}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("change", [0.0, 2.0])
def test_the_head_is_the_one_that_transformers_takes(tiny_model: Path, tmp_path: Path, change: float) -> None:
    folder = with_head(tiny_model, tmp_path / "model", change)
    bundle = export_bundle(folder, tmp_path / "bundle", model="m")
    model = reference(folder)
    tied = bool((model.lm_head.weight == model.model.embed_tokens.weight).all())
    assert (bundle.manifest.architecture.tied_head, tied) == (change == 0, change == 0)
    assert verify(bundle, folder, [[1, 2, 3, 4]], 2).passed


def test_a_head_of_another_size_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=HEAD):
        export_bundle(with_head(tiny_model, tmp_path / "model", 0.0, rows=9), tmp_path / "bundle", model="m")
