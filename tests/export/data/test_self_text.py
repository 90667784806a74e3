"""``--data self``: the base's own samples, sampled once, whatever interrupts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from balcony_edge.errors import DataError
from balcony_export.data import self_text
from balcony_export.exits import store
from balcony_export.model.base import Base, load_base
from balcony_export.training.loop import TrainConfig
from balcony_export.training.run import Job, train_exits
from helpers.disks import room_for

CONFIG = TrainConfig(splits=(1, 2), steps=3, rows=2, length=16, learning_rate=1e-2)
ENDS = (2, 1)


@pytest.fixture(scope="module")
def base(toy: Path) -> Base:
    return load_base(toy, device="cpu")


def sample(base: Base, path: Path, tokens: int = 900, seed: int = 0) -> self_text.TokenRows:
    return self_text.sample(base, tokens, 16, ENDS, seed, path, {"base_sha256": "a"})


def test_samples_follow_the_bases_distribution(base: Base, tmp_path: Path) -> None:
    rows = self_text.sample(base, 2000, 2, ENDS, 0, tmp_path / "self.jsonl", {})
    with torch.no_grad():
        logits = base.model(torch.tensor([[1]])).logits[0, -1]
    expected = torch.softmax(logits, -1).numpy()
    # Rows that ended at once are not among them.
    expected[2] = 0.0
    expected /= expected.sum()
    counts = Counter(row[0] for row in rows)
    found = np.array([counts[token] for token in range(len(expected))]) / len(rows)
    assert np.abs(found - expected).max() < 5 * np.sqrt(expected.max() / len(rows))
    longer = sample(base, tmp_path / "longer.jsonl")
    assert all(2 not in row and 0 < len(row) <= 15 for row in longer)
    assert max(map(len, longer)) == 15


def test_generation_with_caches_is_the_whole_pass(base: Base) -> None:
    begun = torch.tensor([[1, 7, 9], [1, 8, 3]])
    greedy = self_text.generate(base, begun, 6, None)
    with torch.no_grad():
        again = base.model(greedy).logits.argmax(-1)
    assert torch.equal(greedy[:, 3:], again[:, 2:-1])


def test_an_interruption_costs_one_batch_and_changes_nothing(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sample(base, tmp_path / "whole.jsonl", 2500)
    cut = tmp_path / "cut.jsonl"
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) > 3
    cut.write_text("".join(lines[:3]) + lines[3][:50])
    drawn: list[int] = []
    real = self_text.generate

    def generate(*given: object) -> torch.Tensor:
        drawn.append(1)
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(self_text, "generate", generate)
    assert sample(base, cut, 2500) == whole
    assert len(drawn) == len(lines) - 3
    assert sample(base, cut, 2500) == whole
    assert len(drawn) == len(lines) - 3
    assert cut.read_text() == (tmp_path / "whole.jsonl").read_text()


def test_the_samples_of_another_run_are_refused(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "self.jsonl"
    sample(base, path)
    before = path.read_bytes()
    with pytest.raises(DataError, match="another base"):
        sample(base, path, seed=1)
    assert path.read_bytes() == before
    for broken in ("no json\n", "[]\n", '{"length": 16}\n'):
        path.write_text(broken)
        with pytest.raises(DataError, match=r"cannot use|another base"):
            sample(base, path)


def test_changed_samples_are_refused_by_line(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "self.jsonl"
    rows = sample(base, path, 2500)
    before = path.read_text()
    lines = before.splitlines(keepends=True)
    other = lines[2].replace("[[", "[[3, ", 1)
    swapped = [lines[0], lines[2], lines[1]]
    for broken, words in (([*lines[:2], other], "line 3"), (swapped, "line 2"), ([*lines[:2], "{}\n"], "cannot use")):
        path.write_text("".join(broken))
        with pytest.raises(DataError, match=words) as caught:
            sample(base, path, 2500)
        assert "--data self:FILE" in caught.value.hint
        assert path.read_text() == "".join(broken)
    path.write_text("".join(lines[:2]))
    assert sample(base, path, 2500) == rows
    assert path.read_text() == before


@pytest.mark.parametrize("device", ["/dev/full", "/dev/zero"])
def test_samples_are_kept_in_plain_files(base: Base, tmp_path: Path, device: str) -> None:
    (tmp_path / "self.jsonl").symlink_to(device)
    with pytest.raises(DataError, match="it is a device"):
        sample(base, tmp_path / "self.jsonl")


def test_no_room_for_samples_is_said(base: Base, tmp_path: Path) -> None:
    with room_for(3000), pytest.raises(DataError, match="File too large"):
        sample(base, tmp_path / "self.jsonl", 2500)
    # What was cut is drawn again.
    assert sample(base, tmp_path / "self.jsonl", 2500) == sample(base, tmp_path / "other.jsonl", 2500)


def test_training_on_own_text_keeps_and_reuses_it(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "own.jsonl"
    job = Job(toy, "toy", (Path("self"),), tmp_path / "one", device="cpu", self_tokens=1000)
    trained = train_exits(job, CONFIG)
    assert trained.quality["heldout_tokens"] >= 32
    (job.out / "state" / "self.jsonl").replace(kept)
    real = self_text.generate

    def greedy(base: Base, ids: torch.Tensor, count: int, generator: torch.Generator | None) -> torch.Tensor:
        assert generator is None, "sampled again"
        return real(base, ids, count, generator)

    monkeypatch.setattr(self_text, "generate", greedy)
    again = train_exits(replace(job, out=tmp_path / "two", texts=(Path(f"self:{kept}"),)), CONFIG)
    assert all(np.array_equal(again.tensors[name], value) for name, value in trained.tensors.items())
    assert store.load(job.out).training["steps"] == 3


def test_own_text_is_judged_on_given_text_and_stands_alone(toy: Path, text: Path, tmp_path: Path) -> None:
    job = Job(toy, "toy", (Path("self"),), tmp_path / "one", (text,), device="cpu", self_tokens=500)
    assert train_exits(job, CONFIG).quality["heldout_tokens"] > 4000
    with pytest.raises(DataError, match="stands alone"):
        train_exits(replace(job, texts=(Path("self"), text)), CONFIG)
