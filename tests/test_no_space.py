"""No room for what a verb writes, at the first bytes or later: one line, exit code 1, nothing left behind.

The limit is one of this process's for the size of a file, which fails like a full disk does.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from balcony_edge import Bundle
from helpers.command import here
from helpers.disks import room_for
from helpers.places import DEMO_BASE

TEXT = "Once upon a time there was a little girl who loved to swim. " * 80


@pytest.mark.parametrize("size", [0, 700])
@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "-p", "Once", "-n", "40", "--prompt-cache", "{out}/cache"),
        ("replay", "--record", "demo", "--replies", "1", "-o", "{out}/records.json"),
        ("pull", "{bundle}", "-o", "{out}/bundle"),
        ("push", "{bundle}", "./shared"),
        ("export", "{base}", "--exits", "init", "--splits", "6", "--no-verify", "-o", "{out}/bundle"),
        ("export", "{base}", "--exits", "init", "--splits", "6", "-o", "{out}/bundle"),
    ],
)  # fmt: skip
def test_a_whole_output_is_not_left_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], size: int
) -> None:
    if arguments[0] == "export":
        pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    names = {"out": out, "bundle": Bundle.demo().path, "base": DEMO_BASE}
    with room_for(size):
        result = here(*(argument.format(**names) for argument in arguments))
    assert result.returncode == 1, result.stderr
    assert "File too large" in result.stderr
    assert "→" in result.stderr
    assert "Traceback" not in result.stderr
    assert not [path for path in out.rglob("*") if path.is_file()]
    assert not (tmp_path / "shared").exists()


@pytest.mark.parametrize("size", [0, 700])
@pytest.mark.parametrize(
    "arguments",
    [("run", "-p", "Once", "-n", "40", "--log", "out"), ("watch", "-n", "3", "--interval", "0.05", "--record", "out")],
)
def test_what_is_written_line_by_line_ends_with_whole_lines_or_one_that_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], size: int
) -> None:
    monkeypatch.chdir(tmp_path)
    with room_for(size):
        result = here(*arguments)
    assert result.returncode == 1, result.stderr
    assert "cannot write" in result.stderr
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "out").stat().st_size <= size


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
