"""A kept state that a disk has changed is refused: going on from it would end in other exits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from balcony_edge.errors import BalconyError
from balcony_export.exits.balcony import build
from balcony_export.model.base import load_base
from balcony_export.training import resume, run_folder
from balcony_export.training.best_so_far import Best
from balcony_export.training.loop import TrainConfig
from balcony_export.training.run import Job, train_exits

CONFIG = TrainConfig(splits=(1, 2), steps=4, rows=2, length=16, learning_rate=1e-2, look_every=2)


@pytest.fixture
def job(toy: Path, text: Path, tmp_path: Path) -> Job:
    return Job(folder=toy, name="toy", texts=(text,), out=tmp_path / "exits", device="cpu", save_every=2)


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


def without_digest(path: Path) -> None:
    save_file(load_file(path), path, {"step": "4", "config": "{}"})


def test_one_flipped_bit_in_a_state_is_found_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state" / "exits.safetensors"
    model = torch.nn.Linear(30, 20)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(30)).sum().backward()
    optimizer.step()
    resume.save(path, model.state_dict(), [optimizer], 3, {"steps": 9})
    other = torch.nn.Linear(30, 20)
    assert resume.restore(path, other, [torch.optim.AdamW(other.parameters())]) == resume.step_of(path) == 3
    assert resume.read_config(path) == {"steps": 9}
    assert torch.equal(other.weight, model.weight)
    whole = path.read_bytes()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    for at in range(0, len(whole), 97):
        path.write_bytes(flipped(whole, at))
        uses: tuple[Callable[[], object], ...] = (
            lambda: resume.read_config(path),
            lambda: resume.restore(path, other, [torch.optim.AdamW(other.parameters())]),
        )
        for use in uses:
            with pytest.raises(BalconyError, match="cannot go on from the saved training state") as caught:
                use()
            assert caught.value.hint == f"delete {path.parent} to start over"
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("name", ["exits", "best-2"])
def test_a_run_does_not_go_on_from_a_broken_file(job: Job, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_exits(job, CONFIG)
    path = job.out / "state" / f"{name}.safetensors"
    content = path.read_bytes()
    damages: tuple[Callable[[], object], ...] = (
        lambda: path.write_bytes(flipped(content, len(content) - 50)),
        lambda: path.write_bytes(content[:-50]),
        lambda: without_digest(path),
    )
    for damage in damages:
        path.write_bytes(content)
        damage()
        broken = path.read_bytes()
        with pytest.raises(BalconyError, match=rf"{name}\.safetensors: .*(digest|header)"):
            train_exits(job, CONFIG)
        assert path.read_bytes() == broken
    path.write_bytes(content)
    again = train_exits(job, CONFIG)
    assert all(np.array_equal(again.tensors[key], value) for key, value in whole.tensors.items())


def test_a_broken_state_is_found_before_the_base_is_loaded(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    train_exits(job, CONFIG)
    path = job.out / "state" / "exits.safetensors"
    path.write_bytes(flipped(path.read_bytes(), 3000))
    monkeypatch.setattr("balcony_export.training.run.load_base", None)
    with pytest.raises(BalconyError, match="cannot go on"):
        train_exits(job, CONFIG)


def test_the_best_weights_are_those_that_were_kept(job: Job) -> None:
    balconies = build(load_base(job.folder, device="cpu"), (1, 2), "final")
    best = Best(job.out, {"run": 1})
    best.update(2, balconies, {"1": 3.0, "2": 4.0})
    assert best.lowest(2) == (4.0, 2)
    path = job.out / "best-2.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"4.0"', b'"9.0"'))
    with pytest.raises(BalconyError, match="digest"):
        best.update(4, balconies, {"1": 3.5, "2": 5.0})


def test_broken_lines_of_figures_are_left_out(tmp_path: Path) -> None:
    good = '{"phase": "exits", "step": 1, "loss": {"1": 2.5}}\n'
    (tmp_path / "metrics.jsonl").write_bytes(
        good.encode() + b'{"phbse": "exits", "step": 2}\n[1]\n{"phase": "exits", "step": true}\n\xff\n{"phase"\n'
    )
    assert run_folder.read(tmp_path / "metrics.jsonl") == [{"phase": "exits", "step": 1, "loss": {"1": 2.5}}]


def test_a_broken_line_costs_the_picture_and_not_the_run(tmp_path: Path, pictures: None) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "metrics.jsonl").write_text('{"phase": "exits", "step": 1, "lozs": {"1": 2.5}}\n')
    run_folder.draw(tmp_path)
    assert not (tmp_path / "loss.png").exists()
