"""No room for what a verb writes: one line, exit code 1, nothing left behind. All verbs: test_situations.py.

The limit is one of this process's for the size of a file, which fails like a full disk does.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.command import here
from helpers.disks import room_for
from helpers.places import DEMO_BASE

TEXT = "Once upon a time there was a little girl who loved to swim. " * 80


def test_an_export_with_its_check_is_not_left_in_pieces(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    out = tmp_path / "out"
    with room_for(700):
        result = here("export", str(DEMO_BASE), "--exits", "init", "--splits", "6", "-o", str(out / "bundle"))
    assert result.returncode == 1, result.stderr
    assert "File too large" in result.stderr
    assert "→" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_training_that_ran_out_of_room_goes_on(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "text").write_text(TEXT)
    arguments = ["train", str(tiny_model), "--data", str(tmp_path / "text"), "--splits", "2", "--max-steps", "2"]
    arguments += ["--length", "16", "--save-every", "1", "-o", str(tmp_path / "exits")]
    with room_for(4000):
        result = here(*arguments)
    assert result.returncode == 1
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name or path.suffix == ".tmp"]
    result = here(*arguments)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "exits" / "exits.json").is_file()


def test_without_room_for_a_profile_of_the_machine_the_reply_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path))
    with room_for(100):
        result = here("run", "-p", "Once", "-n", "3")
    assert result.returncode == 0, result.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
