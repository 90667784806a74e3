"""balcony-edge calibrate: the tables of a bundle are measured anew; its weights stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balcony_controller.simulation.records import Records
from balcony_edge import AdaptiveSession, Bundle, BundleError, DataError
from balcony_edge.control.adapter import quality_model
from balcony_edge.errors import BalconyError
from balcony_edge.measure import calibration
from balcony_edge.measure.prompts import prompts_for, read_prompts
from balcony_edge.measure.records import record
from balcony_edge.telemetry import FakeSensors
from helpers.command import fails, here


@pytest.fixture(scope="module")
def made() -> Records:
    """Replies of the demo, and what its exits say of them."""
    with AdaptiveSession(sensors=FakeSensors(), provider="cpu") as session:
        return record(session, prompts_for(session.codec, 12), 100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Bundle.demo().path, tmp_path / "bundle"))


def change(folder: Path, how: Callable[[dict[str, Any]], None]) -> None:
    """Change the quality of every exit in a bundle's manifest."""
    path = folder / "balcony.json"
    content = json.loads(path.read_text())
    for row in content["quality"].values():
        how(row)
    path.write_text(json.dumps(content))


def promise_much(row: dict[str, Any]) -> None:
    for depth, chances in row["bins"]["agreement"].items():
        row["bins"]["agreement"][depth] = [0.5 + 0.5 * chance for chance in chances]


def test_tables_that_promise_too_much_are_corrected(made: Records, folder: Path) -> None:
    change(folder, promise_much)
    wrong = Bundle(folder).manifest
    assert all(error > 0.02 for _, error in calibration.errors(made, wrong).values())
    calibration.write(folder, calibration.calibrate(made, wrong.quality))
    right = Bundle(folder)
    assert all(error < 1e-9 for _, error in calibration.errors(made, right.manifest).values())
    # What the controller makes of it: each exit's agreement is what was found.
    model = quality_model(right)
    for split, quality in right.manifest.quality.items():
        found = np.concatenate([reply.tracks[split].agreed for reply in made.replies]).mean()
        table = quality.bins
        assert quality.agreement == pytest.approx(found)
        assert np.dot(table.share, table.agreement[split]) == pytest.approx(found)
        assert model.bin(split, 0.0) in range(len(table.share))
        judge = quality.judge
        assert judge is not None
        assert np.dot(judge.share, judge.agreement) == pytest.approx(found)
        assert np.dot(table.share, np.array(table.judged)) == pytest.approx(judge.share, abs=1e-4)


def test_nothing_but_tables_changes(made: Records, folder: Path) -> None:
    before = json.loads((folder / "balcony.json").read_text())
    calibration.write(folder, calibration.calibrate(made, Bundle(folder).manifest.quality))
    after = json.loads((folder / "balcony.json").read_text())
    for content in (before, after):
        for row in content["quality"].values():
            del row["agreement"], row["bins"]
            for name in ("edges", "share", "agreement"):
                del row["judge"][name]
    assert before == after
    for split in Bundle.demo().manifest.quality:
        old, new = (Bundle(path).manifest.quality[split].judge for path in (Bundle.demo().path, folder))
        assert old is not None
        assert new is not None
        assert (old.gate, old.top, old.margin, old.previous) == (new.gate, new.top, new.margin, new.previous)


def test_few_tokens_are_refused(made: Records) -> None:
    few = Records(made.shape, made.profiles, made.tables, made.judges, made.replies[:2])
    with pytest.raises(BundleError, match="too few"):
        calibration.calibrate(few, Bundle.demo().manifest.quality)


def test_a_manifest_that_cannot_be_written_is_left_alone(
    made: Records, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = calibration.calibrate(made, Bundle(folder).manifest.quality)
    before = (folder / "balcony.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(calibration, "write_whole", full)
    with pytest.raises(BundleError, match="No space left"):
        calibration.write(folder, changed)
    assert (folder / "balcony.json").read_bytes() == before


def test_the_command(folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(
        "".join(f"Once there was a {what}\n" for what in ["cat", "dog", "cow", "hen", "bee", "fox", "owl"])
    )
    before = (folder / "balcony.json").read_bytes()
    arguments = ["calibrate", str(folder), "--prompts", str(prompts), "-n", "120"]
    said = here(*arguments, "--dry-run")
    assert said.returncode == 0, said.stderr
    assert "7 replies" in said.stdout
    assert (folder / "balcony.json").read_bytes() == before
    assert f"written to {folder}" in here(*arguments).stdout
    assert (folder / "balcony.json").read_bytes() != before
    with AdaptiveSession(folder, sensors=FakeSensors()) as session:
        assert session.generate("One day", 5)


NO_PROMPTS = {
    "blank.txt": b"\n \n",
    "answers.jsonl": b'{"answer": "no"}',
    "cut.jsonl": b"{",
    "utf16.txt": b"\xff\xfe\x00",
    "missing.txt": None,
}


@pytest.mark.parametrize("name", NO_PROMPTS)
def test_a_file_without_prompts_is_refused(tmp_path: Path, name: str) -> None:
    path, content = tmp_path / name, NO_PROMPTS[name]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BalconyError) as caught:
        read_prompts(path)
    assert caught.value.hint


def test_prompts_are_lines_or_rows(tmp_path: Path) -> None:
    lines, rows = tmp_path / "a.txt", tmp_path / "a.jsonl"
    lines.write_text("one\n\n two \r\nthree")
    rows.write_text('"one"\n{"prompt": "two"}\n{"messages": [{"role": "user", "content": "three"}]}\n')
    assert read_prompts(lines) == read_prompts(rows) == ["one", "two", "three"]
    rows.write_text("[]")
    with pytest.raises(DataError, match="line 1"):
        read_prompts(rows)


def test_a_name_is_no_folder_to_change() -> None:
    fails(here("calibrate", "smollm2-135m"), "pull")
