"""The loss on the teacher's likeliest tokens, the states that are kept for it, and runs that use both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balcony_edge.errors import BalconyError, ModelError
from balcony_export.data.rows import Rows
from balcony_export.exits.balcony import build
from balcony_export.model.base import Base, load_base
from balcony_export.model.lm_head import LMHead
from balcony_export.training import distill
from balcony_export.training.best_so_far import Look
from balcony_export.training.chunked_loss import chunked_loss
from balcony_export.training.kept_states import KeptStates, RowStates, row_bytes
from balcony_export.training.likeliest import Likeliest, LossVocabulary, likeliest
from balcony_export.training.loop import TrainConfig
from balcony_export.training.run import Job, train_exits
from helpers.effort import examples

CONFIG = TrainConfig(splits=(1, 2), steps=6, rows=4, length=16, learning_rate=1e-2, keeps_states=True)


@pytest.fixture(scope="module")
def base(toy: Path) -> Base:
    return load_base(toy, device="cpu")


def everything(head: LMHead) -> LossVocabulary:
    return LossVocabulary(head, np.ones(head.vocabulary, np.int64), head.vocabulary, 0)


@settings(max_examples=examples(20))
@given(seed=st.integers(0, 1000), softcap=st.sampled_from([0.0, 3.0]), divisor=st.sampled_from([1.0, 2.0]))
def test_over_all_tokens_it_is_the_whole_divergence(seed: int, softcap: float, divisor: float) -> None:
    torch.manual_seed(seed)
    teacher, exit = torch.randn(2, 9, 8)
    head = LMHead(torch.randn(30, 8), divisor, softcap)
    (value,), (gradient,) = everything(head).loss([exit], likeliest(teacher, head, 30))
    (expected,), (slope,) = chunked_loss([exit], teacher, head)
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(gradient, slope, rtol=1e-3, atol=1e-4)


@settings(max_examples=examples(20))
@given(seed=st.integers(0, 1000), count=st.integers(1, 6), rows=st.integers(8, 30))
def test_its_gradient_is_that_of_its_value(seed: int, count: int, rows: int) -> None:
    torch.manual_seed(seed)
    teacher, exit = torch.randn(2, 5, 8, dtype=torch.float64)
    head = LMHead(torch.randn(30, 8, dtype=torch.float64))
    target = likeliest(teacher, head, count)
    vocabulary = LossVocabulary(head, np.arange(30, 0, -1), rows, seed, drawn=4)
    vocabulary.draw(seed)
    (value,), (gradient,) = vocabulary.loss([exit], target)
    step = 1e-3 * torch.randn_like(exit)
    (up,), _ = vocabulary.loss([exit + step], target)
    (down,), _ = vocabulary.loss([exit - step], target)
    assert (up - down).item() == pytest.approx(2 * (gradient * step).sum().item(), rel=2e-2, abs=2e-6)
    assert value >= 0


def test_drawn_tokens_stand_for_all_that_are_missing() -> None:
    """Over many draws the loss is near that over all tokens; without the others it is far below."""
    torch.manual_seed(0)
    teacher, exit = torch.randn(2, 6, 8)
    head = LMHead(0.5 * torch.randn(400, 8))
    target = likeliest(teacher, head, 3)
    counts = np.ones(400, np.int64)
    counts[target.tokens.numpy()] += 1
    (whole,), _ = everything(head).loss([exit], target)

    def mean(drawn: int) -> float:
        vocabulary = LossVocabulary(head, counts, 40, 0, drawn)
        found = []
        for step in range(60):
            vocabulary.draw(step)
            found.append(vocabulary.loss([exit], target)[0][0].item())
        return float(np.mean(found))

    assert mean(60) == pytest.approx(whole.item(), rel=0.1)
    assert abs(mean(0) - whole.item()) > 0.2 * whole.item()


def test_packed_documents_are_run_as_if_alone(base: Base) -> None:
    documents = [([5, 6, 7, 8, 9], 2), ([10, 11, 12], 1)]
    rows = Rows.of_documents(documents, 10)
    tokens, positions, counted = rows.on(base.device)
    states = base.states(tokens, [2], positions)
    balcony = build(base, [2], "final").at(2)
    packed = balcony(states.hidden[2], base.context(tokens, positions))[0]
    at = 0
    for ids, _ in documents:
        alone = base.states(torch.tensor([ids]), [2])
        here = slice(at, at + len(ids))
        torch.testing.assert_close(states.hidden[2][0, here], alone.hidden[2][0])
        torch.testing.assert_close(states.final[0, here], alone.final[0])
        torch.testing.assert_close(packed[here], balcony(alone.hidden[2], alone.context)[0])
        at += len(ids)
    assert counted.sum() == 5


def test_states_are_kept_bounded_and_made_again_if_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "states"

    def opened(rows: int = 5, name: str = "a") -> KeptStates:
        return KeptStates(folder, {"base": name}, [1, 3], rows, 4, 8, 3 * row_bytes(2, 4, 8))

    states = RowStates.of(
        {split: torch.randn(4, 8) for split in (1, 3)}, Likeliest(torch.arange(6).view(2, 3), torch.rand(2, 3))
    )
    kept = opened()
    assert kept.rows == 3
    for row in (0, 2, 4):
        kept.write(row, states)
    assert kept.read(1) is None
    assert kept.read(4) is None, "beyond the limit"
    del kept
    again = opened()
    found = again.read(2)
    assert found is not None
    assert all(torch.equal(found.hidden[split], states.hidden[split]) for split in (1, 3))
    assert torch.equal(found.tokens[:, :3], states.tokens)
    assert torch.equal(found.shares[:, :3], states.shares)
    assert sum(path.stat().st_size for path in folder.glob("*.bin")) < 4 * row_bytes(2, 4, 8)
    path = folder / "hidden-3.bin"
    with path.open("r+b") as stream:
        stream.seek(2 * path.stat().st_size // 3 + 1)
        stream.write(b"\x55\x55\x55")
    damaged = opened()
    assert damaged.read(2) is None
    assert damaged.read(0) is not None
    assert opened(name="b").read(0) is None, "of another base"
    (folder / "states.json").unlink()
    (folder / "states.json").mkdir()
    with pytest.raises(BalconyError, match="cannot keep"):
        opened()


def test_kept_and_computed_states_train_the_same_bits(
    toy: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(name: str, limit: int) -> Job:
        return Job(toy, "toy", (text,), tmp_path / name, device="cpu", save_every=2, states_bytes=limit)

    whole = train_exits(job("whole", 10**9), CONFIG)
    for name, limit in (("none", 0), ("some", 30 * row_bytes(2, 16, 32))):
        other = train_exits(job(name, limit), CONFIG)
        assert all(np.array_equal(other.tensors[key], value) for key, value in whole.tensors.items())
    passes: list[int] = []
    real = Base.states

    def states(base: Base, tokens: torch.Tensor, *rest: object) -> object:
        passes.append(len(tokens))
        return real(base, tokens, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Base, "states", states)
    looks = dict.fromkeys(("1", "2"), 1.0)
    monkeypatch.setattr(distill, "look_at", lambda *_: Look(looks, looks))
    again = replace(job("again", 10**9), states=tmp_path / "whole" / "state" / "base")
    train_exits(again, replace(CONFIG, learning_rate=2e-2))
    assert 1 not in passes, "rows were run through the base again"


def test_only_the_divergence_can_be_had_from_kept_states(toy: Path, text: Path, tmp_path: Path) -> None:
    job = Job(toy, "toy", (text,), tmp_path / "exits", device="cpu")
    for wrong in ({"loss": "ce"}, {"temperature": 2.0}):
        with pytest.raises(ModelError, match="--loss-vocabulary and --cache-states"):
            train_exits(job, replace(CONFIG, **wrong))  # type: ignore[arg-type]


def test_states_are_kept_when_rows_come_again() -> None:
    config = replace(CONFIG, keeps_states=None, loss_vocabulary=30)
    assert config.suited_to(10).keeps_states is True
    assert config.suited_to(24).keeps_states is False
    assert replace(config, loss_vocabulary=0).suited_to(10).keeps_states is False
