"""``balcony-edge train-draft`` on a random 4-layer Llama: it learns, resumes to the bit, and ends up in a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from balcony_edge import AdaptiveSession
from balcony_edge.cli.inspect import text as text_of
from balcony_edge.errors import BalconyError, ExitsError, ModelError
from balcony_export.bundling.writer import export_bundle
from balcony_export.cli.train_draft import train_draft as command
from balcony_export.data.rows import Rows
from balcony_export.exits import store
from balcony_export.exits.draft import of_trained, stage_of, untrained
from balcony_export.model.base import Base, load_base
from balcony_export.training.draft import GUESSES, Lesson, accepted, guessable, guesses, train_draft
from balcony_export.training.loop import TrainConfig
from balcony_export.training.run import Job, train_exits
from helpers.in_process import invoke

CONFIG = TrainConfig(splits=(1, 2), steps=6, rows=2, length=16, learning_rate=1e-2)


@pytest.fixture(scope="module")
def base(toy: Path) -> Base:
    return load_base(toy, device="cpu")


@pytest.fixture
def job(toy: Path, text: Path, tmp_path: Path) -> Job:
    exits = Job(toy, "toy", (text,), tmp_path / "exits", device="cpu")
    train_exits(exits, replace(CONFIG, steps=1, look_every=0))
    return replace(exits, out=tmp_path / "drafting", begin=exits.out, save_every=2)


def test_it_learns_and_the_exits_stay(job: Job, base: Base) -> None:
    trained = train_draft(job, replace(CONFIG, steps=40))
    losses = [
        json.loads(line)["loss"]["4"]
        for line in (job.out / "metrics.jsonl").read_text().splitlines()
        if "loss" in json.loads(line)
    ]
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:3])
    loaded, before = store.load(job.out), store.load(job.out.parent / "exits")
    assert loaded.has_draft
    assert not before.has_draft
    assert all(np.array_equal(loaded.tensors[name], value) for name, value in before.tensors.items())
    assert loaded.quality["exits"] == before.quality["exits"]
    shares = trained.quality["draft"]["accepted"]
    assert len(shares) == 3
    assert 0.0 < shares[0] <= 1.0
    kept = stage_of(of_trained(base, loaded)).state_dict()
    assert all(
        np.array_equal(value, kept[name.removeprefix("exits.draft.")].numpy())
        for name, value in loaded.tensors.items()
        if name.startswith("exits.draft.")
    )


def test_a_stage_that_is_there_goes_on(job: Job, base: Base) -> None:
    first = train_draft(job, replace(CONFIG, look_every=0))
    onward = replace(job, out=job.out.parent / "onward", begin=job.out)
    second = train_draft(onward, replace(CONFIG, look_every=0, learning_rate=1e-9))
    assert second.training["draft"]["begun_as"] == first.training["draft"]
    assert all(np.allclose(second.tensors[name], value, atol=1e-6) for name, value in first.tensors.items())


def test_a_run_that_was_interrupted_goes_on_to_the_bit(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_draft(job, CONFIG)
    call = Lesson.__call__

    def struck(self: Lesson, step: int, *rest: object) -> object:
        if step == 5:
            raise KeyboardInterrupt
        return call(self, step, *rest)  # type: ignore[arg-type]

    halved = replace(job, out=job.out.parent / "halved")
    with monkeypatch.context() as patch:
        patch.setattr(Lesson, "__call__", struck)
        with pytest.raises(KeyboardInterrupt):
            train_draft(halved, CONFIG)
    resumed = train_draft(halved, CONFIG)
    assert all(np.array_equal(resumed.tensors[name], value) for name, value in whole.tensors.items())
    with pytest.raises(BalconyError, match="another run"):
        train_draft(halved, replace(CONFIG, seed=1))


def test_later_guesses_are_made_from_earlier_ones_at_the_position_before(base: Base) -> None:
    stage = stage_of(untrained(base))
    tokens = torch.randint(3, 60, (1, 6))
    states = base.states(tokens, ())
    embedded = base.model.model.embed_tokens(tokens)
    with torch.no_grad():
        first, second = guesses(base, stage, states.final, tokens, states.context, 2)
        earlier = torch.cat([torch.zeros_like(first[:, :1]), first[:, :-1]], 1)
        by_hand = stage.guess(earlier, embedded.roll(-1, dims=1), states.context)
    torch.testing.assert_close(second, by_hand)
    assert not torch.equal(second, first)


def test_places_are_before_counted_positions_of_the_same_document() -> None:
    rows = Rows.of_documents([([1, 2, 3, 4], 2), ([5, 6, 7], 1)], 8)
    _, positions, counted = rows.on(torch.device("cpu"))
    found = guessable(positions, counted)
    # A guess at place i is for position i + 1, whose next token is the document's own.
    expected = [[False] * 8 for _ in range(len(rows))]
    for row in range(len(rows)):
        for place in range(7):
            expected[row][place] = bool(counted[row, place + 1]) and int(positions[row, place + 1]) > 0
    assert found.tolist() == expected
    assert found.any()


def test_what_is_right_is_counted(base: Base) -> None:
    """A stage that hands on the full depth's own states at the next position is always right, and all others never."""

    class Knowing:
        def __init__(self, final: torch.Tensor) -> None:
            self.final = final

        def guess(self, states: torch.Tensor, embedded: torch.Tensor, context: object) -> torch.Tensor:
            return self.final.roll(-1, dims=1)

    tokens = np.random.default_rng(1).integers(3, 60, (1, 12))
    rows = Rows(tokens, np.arange(12)[None], np.ones((1, 12), np.bool_))
    final = base.states(torch.from_numpy(tokens), ()).final
    every = tuple(range(base.head.vocabulary))

    class Holder:
        splits = (4,)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("balcony_export.training.draft.stage_of", lambda balconies: Knowing(final))
        assert accepted(base, Holder(), rows, every)[0] == 1.0
        patch.setattr("balcony_export.training.draft.stage_of", lambda balconies: Knowing(-final))
        assert accepted(base, Holder(), rows, every)[0] < 0.5


def test_it_ends_up_in_a_bundle(job: Job, toy: Path, tmp_path: Path) -> None:
    train_draft(job, CONFIG)
    bundle = export_bundle(toy, tmp_path / "bundle", model="toy", exits=job.out)
    assert bundle.manifest.draft is not None
    assert bundle.manifest.schema_version == 5
    assert bundle.manifest.guesses == store.load(job.out).quality["draft"]["accepted"]
    card = (bundle.path / "README.md").read_text()
    assert "A draft stage" in card
    assert "guesses right" in text_of(bundle)
    with AdaptiveSession(bundle.path, provider="cpu") as session:
        assert session.governor.shape.drafts
        assert len(list(session.reply([5, 6, 7], 20))) > 0


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"begin": None}, ExitsError, "added to exits"),
        ({"begin": Path("nowhere")}, ExitsError, "nowhere"),
    ],
)
def test_what_it_cannot_be_added_to(job: Job, change: dict[str, Path], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        train_draft(replace(job, **change), CONFIG)  # type: ignore[arg-type]
    assert not job.out.exists()


def test_settings_that_cannot_be_used(job: Job) -> None:
    with pytest.raises(ModelError, match="longer"):
        train_draft(job, replace(CONFIG, length=1 << 20))


def test_the_command(job: Job, toy: Path, text: Path, tmp_path: Path) -> None:
    small = ["--max-steps", "2", "--rows", "2", "--length", "16", "--device", "cpu", "--dtype", "fp32"]
    said = invoke(
        command, str(toy), "--exits", str(job.begin), "--data", str(text), "-o", str(tmp_path / "out"), *small
    )
    assert "first, second and third guess" in said
    trained = store.load(tmp_path / "out")
    assert trained.training["draft"]["guesses"] == list(GUESSES)
    with pytest.raises(ExitsError, match="no draft stage"):
        of_trained(load_base(toy, device="cpu"), store.load(job.begin))  # type: ignore[arg-type]
