"""Training that is killed, spread over processes, taken in pieces, and chosen by held-out text."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from balcony_edge.errors import BalconyError, ExitsError, ModelError
from balcony_edge.files.tensors import read_metadata
from balcony_export.data.rows import Rows
from balcony_export.exits import store
from balcony_export.exits.balcony import build
from balcony_export.model.base import Base, load_base
from balcony_export.training import distill, run, run_folder
from balcony_export.training.best_so_far import Best, Look, look_at
from balcony_export.training.learner import Learner
from balcony_export.training.loop import TrainConfig
from balcony_export.training.processes import Processes
from balcony_export.training.run import Job, train_exits
from balcony_export.training.sharpness import fit_sharpness
from helpers.exporting import die_before_event

CONFIG = TrainConfig(splits=(1, 2), steps=8, rows=4, length=16, learning_rate=1e-2, look_every=2)
# The loss over a part of the head, from states that are kept on disk; a step takes rows again that it took before.
KEPT = replace(CONFIG, steps=14, rows=6, loss_vocabulary=40, keeps_states=True)
KEPT_BYTES = 10**8
# Children begin with everything imported.
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def job(toy: Path, text: Path, tmp_path: Path) -> Job:
    return Job(folder=toy, name="toy", texts=(text,), out=tmp_path / "exits", device="cpu", save_every=3)


def elsewhere(job: Job, name: str) -> Job:
    return replace(job, out=job.out.with_name(name))


def steps_done(job: Job) -> int:
    return len(run_folder.read(job.out / "metrics.jsonl"))


def same(one: store.Exits, other: store.Exits) -> bool:
    return one.quality == other.quality and all(
        np.array_equal(one.tensors[name], value) for name, value in other.tensors.items()
    )


# --- killed ---


def train_until(event: int, job: Job, config: TrainConfig) -> None:
    """Train, and die before the ``event``-th file-system event in the run's folder."""
    die_before_event(event, str(job.out))
    train_exits(job, config)


@pytest.mark.parametrize("config", [CONFIG, KEPT])
def test_killed_at_random_steps_it_ends_with_the_same_bits(job: Job, config: TrainConfig) -> None:
    job = replace(job, states_bytes=KEPT_BYTES)
    whole = train_exits(job, config)
    lines = steps_done(job)
    chance = random.Random(20250305)
    killed = 0
    again = elsewhere(job, "again")
    for _ in range(8):
        # Within the exits, the gates, or the last figures; some steps further than where it was killed before.
        child = FORK.Process(target=train_until, args=(chance.randint(lines // 2, 2 * lines), again, config))
        child.start()
        child.join()
        killed += child.exitcode == -9
    assert killed > 1
    resumed = train_exits(again, config)
    assert same(resumed, whole)
    assert steps_done(again) == lines
    assert same(store.load(again.out), whole)


# --- several processes ---


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def ranked(rank: int, port: int, job: Job, config: TrainConfig) -> None:
    """One process as a launcher starts it; no one but the first may write."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    loaded: list[Base] = []

    def load(*given: Any) -> Base:
        loaded.append(load_base(*given))
        return loaded[-1]

    run.load_base = load  # type: ignore[attr-defined]
    trained = train_exits(job, config)
    weight: Any = loaded[0].model.model.layers[0].mlp.up_proj.weight
    held = weight.to_local() if job.shard_base else weight
    assert held.numel() * (2 if job.shard_base else 1) == 48 * 32
    store.save(job.out.with_name(f"of-{rank}"), trained)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("chosen", "shard_base"), [(CONFIG, False), (CONFIG, True), (KEPT, False)])
def test_two_processes_train_the_exits_of_one(job: Job, chosen: TrainConfig, shard_base: bool) -> None:
    """To 1e-4 of the largest weight: sums of halves round otherwise than sums of wholes, eight steps of AdamW long."""
    pytest.importorskip("accelerate")
    config = replace(chosen, rows=5, accumulate=2)
    job = replace(job, states_bytes=KEPT_BYTES)
    alone = train_exits(elsewhere(job, "alone"), replace(config, accumulate=1))
    job = replace(job, shard_base=shard_base)
    port = free_port()
    children = [FORK.Process(target=ranked, args=(rank, port, job, config)) for rank in (0, 1)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    first, second = (store.load(job.out.with_name(f"of-{rank}")) for rank in (0, 1))
    assert same(first, second)
    assert same(store.load(job.out), first)
    untrained = build(load_base(job.folder, device="cpu"), (1, 2), "final").state_dict()
    for name, value in alone.tensors.items():
        if name.startswith("exits."):
            np.testing.assert_allclose(first.tensors[name], value, atol=1e-4 * np.abs(value).max(), err_msg=name)
            moved = np.abs(value - untrained[name.removeprefix("exits.")].numpy()).max()
            assert moved > 100 * np.abs(first.tensors[name] - value).max()
    recorded = [json.loads(line) for line in (job.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in recorded if line["phase"] == "exits"] == list(range(1, config.steps + 1))


def test_every_row_goes_to_one_process() -> None:
    rows = torch.arange(10).view(5, 2)
    parts = [Processes(rank, 3).part(rows) for rank in range(3)]
    assert torch.equal(torch.cat(parts), rows)
    assert [len(part) for part in parts] == [2, 2, 1]


def test_more_processes_than_rows_are_refused(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.Processes, "launched", lambda device: Processes(0, 5))
    with pytest.raises(ModelError, match="4 rows a step are too few for 5 processes"):
        train_exits(job, CONFIG)
    assert not job.out.exists()


def test_several_processes_without_accelerate_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(BalconyError, match="Accelerate"):
        Processes.launched()


# --- in pieces ---


def test_pieces_add_up_to_the_step(job: Job) -> None:
    whole = train_exits(job, replace(CONFIG, steps=3))
    pieces = train_exits(elsewhere(job, "pieces"), replace(CONFIG, steps=3, accumulate=3))
    assert not same(whole, pieces)
    for name, value in whole.tensors.items():
        if name.startswith("exits."):
            np.testing.assert_allclose(pieces.tensors[name], value, atol=1e-4 * np.abs(value).max(), err_msg=name)


# --- exit by exit ---


def test_an_exit_becomes_what_it_would_become_alone(job: Job) -> None:
    both = train_exits(job, CONFIG)
    alone = train_exits(elsewhere(job, "alone"), replace(CONFIG, splits=(2,)))
    for name, value in alone.tensors.items():
        assert np.array_equal(both.tensors[name], value), name


def test_one_exit_has_gradients_at_a_time(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    learners: list[Learner] = []
    with_gradients: list[list[bool]] = []
    step = Learner.step

    def watched(learner: Learner, *given: Any) -> float:
        learners.extend([] if learner in learners else [learner])
        with_gradients.append([any(p.grad is not None for p in one.parameters) for one in learners])
        return step(learner, *given)

    monkeypatch.setattr(Learner, "step", watched)
    train_exits(job, CONFIG)
    assert with_gradients == [[True], *[[False, True], [True, False]] * 7, [False, True]]


# --- the frozen base ---


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_base_has_no_gradients_and_no_optimiser_state(
    job: Job, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    loaded: list[Base] = []
    optimised: list[torch.Tensor] = []
    made = torch.optim.AdamW

    def load(*given: Any) -> Base:
        loaded.append(load_base(*given))
        return loaded[-1]

    def remember(parameters: list[torch.Tensor], **settings: Any) -> torch.optim.AdamW:
        optimised.extend(parameters)
        return made(parameters, **settings)

    monkeypatch.setattr(run, "load_base", load)
    monkeypatch.setattr(torch.optim, "AdamW", remember)
    train_exits(job, replace(CONFIG, dtype=dtype, steps=2))
    own = list(loaded[0].model.parameters())
    assert own
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in own)
    held = {parameter.untyped_storage().data_ptr() for parameter in optimised}
    assert held
    assert held.isdisjoint(parameter.untyped_storage().data_ptr() for parameter in own)
    assert all(parameter.dtype == torch.float32 for parameter in optimised)


# --- the best exits ---


def test_each_exit_ends_as_it_was_at_its_best(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {2: {"1": 3.0, "2": 9.0}, 4: {"1": 2.0, "2": 5.0}, 6: {"1": 4.0, "2": 4.0}, 8: {"1": 5.0, "2": 6.0}}
    looked: list[int] = []
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def score(base: Base, balconies: Any, rows: Rows, temperature: float) -> Look:
        looked.append(2 * len(looked) + 2)
        seen[looked[-1]] = {name: value.clone() for name, value in balconies.state_dict().items()}
        return Look(scores[looked[-1]], {})

    monkeypatch.setattr(distill, "look_at", score)
    trained = train_exits(job, CONFIG)
    assert looked == [2, 4, 6, 8]
    for split, step in ((1, 4), (2, 6)):
        name = f"{split}.layer.mlp.down_proj.weight"
        assert np.array_equal(trained.tensors[f"exits.{name}"], seen[step][name].numpy())
    identity = json.loads(read_metadata(job.out / "state" / "best-1.safetensors")["config"])
    kept = Best(job.out / "state", identity)
    assert kept.lowest(1) == (2.0, 4)
    assert kept.lowest(2) == (4.0, 6)
    assert Best(job.out / "state", {"another": "run"}).lowest(1) is None


def test_without_looks_the_last_exits_are_kept(job: Job) -> None:
    train_exits(job, replace(CONFIG, look_every=0, steps=3))
    assert not list((job.out / "state").glob("best*"))


def test_looks_are_the_kl_of_held_out_text(job: Job) -> None:
    trained = train_exits(job, CONFIG)
    looks = [line for line in run_folder.read(job.out / "metrics.jsonl") if line["phase"] == "heldout"]
    assert [look["step"] for look in looks] == [2, 4, 6, 8]
    for split in ("1", "2"):
        best = min(look["kl_nats"][split] for look in looks)
        assert trained.quality["exits"][split]["kl_nats"] == pytest.approx(best, rel=0.25)


def test_the_settings_are_written_down(job: Job) -> None:
    train_exits(job, replace(CONFIG, steps=2))
    written = json.loads((job.out / "config.json").read_text())
    assert written["base"] == "toy"
    assert written["data"] == ["letters.txt"]
    assert written["processes"] == 1
    assert written["training"] == replace(CONFIG, steps=2).as_dict()
    assert torch.__version__.startswith(written["versions"]["torch"].partition("+")[0])


# --- sharpness ---


def test_a_flattened_exit_is_sharpened_again(job: Job) -> None:
    base = load_base(job.folder, device="cpu")
    # The layer before the last, the last one's copy behind it: the base itself.
    split = base.blueprint.arch.layers - 1
    balconies = build(base, (split,), "final")
    rows = Rows.of_stream(np.random.default_rng(0).integers(0, base.head.vocabulary, 96), 16)
    with torch.no_grad():
        balconies.at(split).norm.get_parameter("weight").mul_(0.8)
    assert look_at(base, balconies, rows).kl_nats[str(split)] > 1e-3
    # Hotter distributions are flatter, and lie closer together.
    flat, hot = (look_at(base, balconies, rows, temperature).kl_nats[str(split)] for temperature in (1.0, 4.0))
    assert 0 < hot < flat
    assert fit_sharpness(base, balconies, rows)[split] == pytest.approx(1.25, abs=0.02)
    assert look_at(base, balconies, rows).kl_nats[str(split)] < 1e-4


# --- from trained exits ---


def test_a_run_goes_on_from_trained_exits(job: Job) -> None:
    first = train_exits(job, CONFIG)
    still = replace(CONFIG, splits=(2,), steps=1, learning_rate=1e-12)
    after = train_exits(replace(elsewhere(job, "after"), begin=job.out), still)
    for name, value in after.tensors.items():
        if name.startswith("exits."):
            np.testing.assert_allclose(value, first.tensors[name], atol=1e-9, err_msg=name)
    assert after.training["begun_as"] == json.loads(json.dumps(first.training))


def test_the_other_exits_stay_as_they_begin(job: Job) -> None:
    first = train_exits(job, CONFIG)
    after = train_exits(replace(elsewhere(job, "after"), begin=job.out), replace(CONFIG, only=(2,)))
    kept, moved = "exits.1.layer.mlp.down_proj.weight", "exits.2.layer.mlp.down_proj.weight"
    assert np.array_equal(after.tensors[kept], first.tensors[kept])
    assert not np.array_equal(after.tensors[moved], first.tensors[moved])
    with pytest.raises(ModelError, match="--only 3 is none of the splits"):
        train_exits(elsewhere(job, "none"), replace(CONFIG, only=(3,)))
    with pytest.raises(ModelError, match="untrained"):
        train_exits(elsewhere(job, "none"), replace(CONFIG, only=(2,)))


def test_a_run_that_begins_otherwise_is_another_run(job: Job) -> None:
    train_exits(job, CONFIG)
    train_exits(elsewhere(job, "after"), CONFIG)
    with pytest.raises(BalconyError, match="another begin"):
        train_exits(replace(elsewhere(job, "after"), begin=job.out), CONFIG)


def test_only_the_same_splits_and_width_can_be_gone_on_from(job: Job) -> None:
    train_exits(job, replace(CONFIG, splits=(1,)))
    after = replace(elsewhere(job, "after"), begin=job.out)
    with pytest.raises(ExitsError, match=r"exits at \[1\], none at 2"):
        train_exits(after, CONFIG)
    with pytest.raises(ExitsError, match="of width layer, not mlp"):
        train_exits(after, replace(CONFIG, splits=(1,), width="mlp"))
    assert not after.out.exists()
