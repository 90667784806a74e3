"""The demo's recipe on a toy scale: whole, resumable, and refusing too little text."""

from __future__ import annotations

from pathlib import Path

import pytest

from balcony_edge import Bundle
from balcony_edge.errors import DataError
from balcony_export.demo import pretrain, recipe
from balcony_export.demo.pretrain import PretrainConfig

TINY = PretrainConfig(
    vocabulary=300, hidden=32, layers=4, heads=2, kv_heads=1, intermediate=64, context=32, steps=6, rows=2, length=16
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe with a toy base, a few steps and no compiler."""
    monkeypatch.setattr(recipe, "PretrainConfig", lambda: TINY)
    monkeypatch.setattr(recipe, "SPLITS", (1, 2))
    monkeypatch.setattr(recipe, "EXIT_LENGTH", 16)
    monkeypatch.setattr(
        recipe, "TRAINING_RUNS", ({"steps": 2}, {"only": (2,), "steps": 2, "rows": 2, "temperature": 0.5})
    )
    monkeypatch.setattr(pretrain, "SAVE_EVERY", 2)
    monkeypatch.setattr(pretrain.shutil, "which", lambda _: None)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Stories enough for a held-out part."""
    path = tmp_path / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(f"Once there was a cat who had {n} red balls." for n in range(400)))
    return path


@pytest.mark.usefixtures("small")
def test_the_recipe_makes_a_bundle_and_skips_what_stands(text: Path, tmp_path: Path) -> None:
    out, bundle = tmp_path / "out", tmp_path / "bundle"
    recipe.recipe([text], out, bundle)
    assert Bundle(bundle).depths == (1, 2, 4)
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    recipe.recipe([text], out, bundle)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == made


@pytest.mark.usefixtures("small")
def test_an_interrupted_base_goes_on_to_the_same_weights(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = recipe.make_base([text], tmp_path / "whole")
    batch = pretrain.corpus.batch

    def interrupted(stream: object, step: int, *rest: object) -> object:
        if step == 4:
            raise KeyboardInterrupt
        return batch(stream, step, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(pretrain.corpus, "batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recipe.make_base([text], tmp_path / "parts")
    assert not (tmp_path / "parts" / "base" / "model.safetensors").exists()
    parts = recipe.make_base([text], tmp_path / "parts")
    first, second = (load_file_bytes(folder) for folder in (whole, parts))
    assert first == second


def load_file_bytes(folder: Path) -> bytes:
    """The checkpoint's bytes."""
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("small")
def test_too_little_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("One day.")
    with pytest.raises(DataError, match="too few"):
        recipe.make_base([path], tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.safetensors"))
