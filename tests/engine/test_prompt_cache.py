"""Saved prompts: what comes back is what was there, and nothing broken or foreign is taken."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balcony_edge.bundle.folder import Bundle
from balcony_edge.engine import prompt_cache
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import PromptError
from balcony_edge.files.tensors import read_metadata, save_arrays
from helpers.schedules import fresh_logits

IDS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture
def ladder() -> Ladder:
    return Ladder(Bundle.demo(), Runtime.start("cpu"))


@pytest.fixture
def saved(ladder: Ladder, tmp_path: Path) -> Path:
    """A cache in which the stages stand at different positions."""
    ladder.append(IDS[:5])
    ladder.next_logits(ladder.full)
    ladder.append(IDS[5:])
    ladder.next_logits(ladder.depths[0])
    prompt_cache.save(ladder, tmp_path / "prompt.safetensors")
    return tmp_path / "prompt.safetensors"


def test_a_saved_prompt_goes_on_where_it_stood(ladder: Ladder, saved: Path) -> None:
    cursors = [stage.cursor for stage in ladder.stages]
    other = Ladder(Bundle.demo(), Runtime.start("cpu"))
    other.append([7, 7, 7])
    assert prompt_cache.load(other, saved) == len(IDS)
    assert other.tokens == IDS
    assert [stage.cursor for stage in other.stages] == cursors
    for depth in ladder.depths:
        np.testing.assert_array_equal(other.next_logits(depth), ladder.next_logits(depth))
    assert [path.name for path in saved.parent.iterdir()] == ["prompt.safetensors"]


def edit(path: Path, change: Any) -> None:
    """Save the file again after ``change`` of its tensors and metadata, with a digest that agrees."""
    from safetensors.numpy import load_file

    tensors, metadata = load_file(path), read_metadata(path)
    change(tensors, metadata)
    save_arrays(tensors, path, metadata)


def cursor(value: Any) -> Any:
    def change(_: Any, metadata: dict[str, str]) -> None:
        cursors = json.loads(metadata["cursors"])
        metadata["cursors"] = json.dumps({**cursors, "segment 0-3": value})

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors, metadata: metadata.pop("balcony_prompt"), "no prompt cache"),
        (lambda tensors, metadata: metadata.update(bundle="0" * 64), "another bundle"),
        (lambda tensors, metadata: metadata.update(cursors="{"), "cannot read"),
        (lambda tensors, metadata: tensors.pop("exit 3/key.0"), r"exit 3/key\.0"),
        (lambda tensors, metadata: tensors.update({"exit 3/key.0": np.zeros((1, 2, 3), np.float32)}), r"exit 3/key\.0"),
        (lambda tensors, metadata: tensors.update(ids=np.array([1, -1])), "vocabulary"),
        (lambda tensors, metadata: tensors.update(ids=np.array([[1]])), "ids"),
        (lambda tensors, metadata: tensors.update(ids=np.arange(100000) % 9), "context"),
        (cursor(99), "segment 0-3"),
        (cursor("x"), "segment 0-3"),
        (cursor(True), "segment 0-3"),
        (lambda tensors, metadata: metadata.update(cursors="[" * 9000), "levels deep"),
        (lambda tensors, metadata: metadata.update(cursors="[]"), "cannot read"),
    ],
)
def test_what_is_not_this_bundles_is_refused(ladder: Ladder, saved: Path, change: Any, words: str) -> None:
    edit(saved, change)
    with pytest.raises(PromptError, match=words) as caught:
        prompt_cache.load(ladder, saved)
    assert caught.value.hint
    assert ladder.length == 0
    fresh = fresh_logits(ladder, IDS, ladder.full)
    assert np.isfinite(fresh).all()


def test_one_flipped_bit_is_found_wherever_it_is(ladder: Ladder, saved: Path) -> None:
    """It would give other words, which the line of figures would call lossless."""
    whole = saved.read_bytes()
    for position in range(8, len(whole), len(whole) // 60):
        changed = bytearray(whole)
        changed[position] ^= 0x10
        saved.write_bytes(changed)
        with pytest.raises(PromptError, match=r"."):
            prompt_cache.load(ladder, saved)
        assert ladder.length == 0


def test_pipes_and_devices_are_no_prompt_caches(ladder: Ladder, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(PromptError, match="no plain file"):
            prompt_cache.load(ladder, tmp_path / name)


def test_files_that_cannot_be_read_or_written(ladder: Ladder, saved: Path) -> None:
    saved.write_bytes(b"not safetensors at all")
    with pytest.raises(PromptError, match="cannot read"):
        prompt_cache.load(ladder, saved)
    with pytest.raises(PromptError, match="cannot read"):
        prompt_cache.load(ladder, saved.parent / "nowhere")
    ladder.append(IDS)
    with pytest.raises(PromptError, match="cannot write"):
        prompt_cache.save(ladder, saved / "below a file")
    with pytest.raises(PromptError, match="cannot write"):
        prompt_cache.save(ladder, saved.parent)
    assert [path.name for path in saved.parent.iterdir()] == ["prompt.safetensors"]
