"""``balcony-edge train`` end to end on a random 4-layer Llama: seconds, and every promise of its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from balcony_edge.errors import BalconyError, DataError, ExitsError, ModelError
from balcony_export.cli import train as command
from balcony_export.data import corpus
from balcony_export.data.rows import RowOrder, Rows
from balcony_export.exits import store
from balcony_export.exits.balcony import build
from balcony_export.model import architectures
from balcony_export.model.base import Base, load_base
from balcony_export.model.tokenizer.loaded import load_tokenizer
from balcony_export.training import loop, quality, run, run_folder
from balcony_export.training.chunked_loss import likeliest_tokens
from balcony_export.training.loop import TrainConfig
from balcony_export.training.run import Job, train_exits
from helpers.in_process import invoke
from helpers.places import SHARED

CONFIG = TrainConfig(splits=(1, 2), steps=6, rows=2, length=16, learning_rate=1e-2)


@pytest.fixture
def job(toy: Path, text: Path, tmp_path: Path) -> Job:
    return Job(folder=toy, name="toy", texts=(text,), out=tmp_path / "exits", device="cpu", save_every=2)


@pytest.fixture(scope="module")
def base(toy: Path) -> Base:
    return load_base(toy, device="cpu")


def records(job: Job, phase: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (job.out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["phase"] == phase]


def train(*arguments: str) -> None:
    invoke(command.train, *arguments)


# --- what is trained ---


def test_states_are_what_transformers_computes(base: Base) -> None:
    tokens = torch.randint(64, (3, 20))
    states = base.states(tokens, [1, 3])
    with torch.no_grad():
        reference = base.model(input_ids=tokens, output_hidden_states=True)
    for split in (1, 3):
        torch.testing.assert_close(states.hidden[split], reference.hidden_states[split])
    torch.testing.assert_close(base.head.logits(states.final), reference.logits)


def test_an_exit_starts_as_a_copy_of_the_last_layer(base: Base) -> None:
    inner = base.model.model
    for start, norms in (
        ("layer", [inner.layers[1].input_layernorm, inner.layers[3].input_layernorm]),
        ("final", [inner.norm, inner.norm]),
    ):
        balconies = build(base, [1, 3], start)
        for split, norm in zip((1, 3), norms, strict=True):
            exit: Any = balconies.at(split)
            for name, value in inner.layers[-1].state_dict().items():
                assert torch.equal(exit.layer.state_dict()[name], value)
            assert torch.equal(exit.norm.weight, norm.weight)
            assert exit.layer.self_attn.layer_idx == 0
    assert all(parameter.requires_grad for parameter in balconies.parameters())
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_an_exit_sees_no_later_token(base: Base) -> None:
    balconies = build(base, [2], "layer")
    tokens = torch.randint(64, (1, 12))
    changed = tokens.clone()
    changed[0, 8:] = (changed[0, 8:] + 1) % 64
    outputs = []
    for row in (tokens, changed):
        states = base.states(row, [2])
        outputs.append(balconies.normed(states.hidden, states.context)[0].detach())
    torch.testing.assert_close(outputs[0][:, :8], outputs[1][:, :8])
    assert not torch.allclose(outputs[0][:, 8:], outputs[1][:, 8:])


def test_training_writes_better_exits_and_leaves_the_base_alone(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Base] = []

    def load(*given: Any) -> Base:
        loaded.append(load_base(*given))
        return loaded[-1]

    monkeypatch.setattr(run, "load_base", load)
    trained = train_exits(job, replace(CONFIG, steps=100))

    fresh = load_base(job.folder, device="cpu").model.state_dict()
    assert all(torch.equal(fresh[name], value) for name, value in loaded[0].model.state_dict().items())

    losses = [record["loss"] for record in records(job, "exits")]
    untrained = build(loaded[0], [1, 2], "final").state_dict()
    for split in ("1", "2"):
        assert np.mean([loss[split] for loss in losses[-5:]]) < 0.8 * losses[0][split]
        name = f"{split}.layer.mlp.down_proj.weight"
        assert not np.array_equal(trained.tensors[f"exits.{name}"], untrained[name].numpy())
    assert len(losses) == 100


def test_the_folder_is_what_the_exporter_reads(job: Job, text: Path, pictures: None) -> None:
    options = "--splits 3,1 --max-steps 2 --rows 2 --length 16 --device cpu --seed 5"
    train(str(job.folder), "--data", str(text), "--data", str(text), "-o", str(job.out), *options.split())
    loaded = store.load(job.out)
    loaded.check_base(job.folder)
    assert loaded.splits == (1, 3)
    assert loaded.base_model == job.folder.name
    assert loaded.layer(1)["self_attn.k_proj.weight"].shape == (16, 32)
    assert {"steps": 2, "seed": 5, "length": 16, "splits": [1, 3]}.items() <= loaded.training.items()
    assert loaded.training["seconds"] > 0
    quality = loaded.quality
    assert quality["heldout_tokens"] >= 32
    assert quality["full_loss_nats"] > 0
    for split, deeper in (("1", {"1", "3"}), ("3", {"3"})):
        row = quality["exits"][split]
        assert row.keys() == {
            "agreement", "own_agreement", "lens_agreement", "kl_nats", "gate_auroc", "gate_ece", "bins", "judge",
        }  # fmt: skip
        assert row["bins"]["agreement"].keys() == deeper
        assert len(row["bins"]["share"]) == len(row["bins"]["edges"]) + 1
        own = np.dot(row["bins"]["share"], row["bins"]["agreement"][split])
        assert own == pytest.approx(row["own_agreement"])
        assert row["bins"]["following"].keys() == deeper - {split}
        assert {len(said) for said in row["bins"]["judged"]} == {len(row["judge"]["share"])}
        for depth, counted in row["bins"]["following"].items():
            there = quality["exits"][depth]["bins"]["share"]
            np.testing.assert_allclose(np.dot(row["bins"]["share"], counted), there, atol=1e-4)
        assert np.dot(row["judge"]["share"], row["judge"]["agreement"]) == pytest.approx(row["agreement"])
    found = sorted(path.relative_to(job.out).as_posix() for path in job.out.rglob("*") if path.is_file())
    assert found == [
        "config.json", "exits.json", "exits.safetensors", "loss.png", "metrics.jsonl",
        "state/best-1.safetensors", "state/best-3.safetensors", "state/exits.safetensors",
    ]  # fmt: skip


def test_the_gates_in_the_folder_are_the_calibrated_ones(job: Job) -> None:
    trained = train_exits(job, CONFIG)
    base = load_base(job.folder, device="cpu")
    data = corpus.load(job.texts, load_tokenizer(job.folder), 2)
    held = Rows.of_stream(data.heldout, CONFIG.length)
    own = quality.own_rows(base, held, len(held))
    counted = torch.from_numpy(own.counted)
    states = base.states(torch.from_numpy(own.tokens), CONFIG.splits)
    balconies = build(base, CONFIG.splits, CONFIG.norm_start)
    balconies.load(trained)
    with torch.no_grad():
        normed = balconies.at(2)(states.hidden[2], states.context)[counted]
        looked = torch.log_softmax(base.head.logits(normed)[..., list(trained.frequent_tokens)].double(), -1)
    second, top = np.partition(looked.numpy(), -2)[..., -2:].T
    gate = trained.gate(2)
    bins = trained.quality["exits"]["2"]["bins"]
    features = np.stack([top, top - second, np.exp(top), np.exp(second - top), np.exp(second)]).reshape(5, -1)
    logits = gate["weight"] @ features + gate["bias"]
    place = np.searchsorted(bins["edges"], 1 / (1 + np.exp(-logits)).ravel())
    shares = np.bincount(place, minlength=len(bins["share"])) / place.size
    assert len(shares) > 4
    # A position on an edge may fall to either side of it.
    np.testing.assert_allclose(shares, bins["share"], atol=0.15)
    drafts = np.asarray(trained.frequent_tokens)[looked.numpy().argmax(-1)]
    right = drafts == likeliest_tokens(states.final[counted], base.head).numpy()
    assert np.dot(bins["share"], bins["drafted"]) == pytest.approx(right.mean(), abs=0.01)


# --- resuming ---


def test_an_interrupted_run_ends_with_the_same_bits(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_exits(job, CONFIG)
    again = replace(job, out=job.out.with_name("again"))

    def broken(order: RowOrder, step: int) -> Any:
        if step == 5:
            raise KeyboardInterrupt
        return real(order, step)

    real = RowOrder.__call__
    with monkeypatch.context() as patch:
        patch.setattr(RowOrder, "__call__", broken)
        with pytest.raises(KeyboardInterrupt):
            train_exits(again, CONFIG)
    assert not (again.out / "exits.safetensors").exists()
    assert len(records(again, "exits")) == 5

    resumed = train_exits(again, CONFIG)
    assert all(np.array_equal(resumed.tensors[name], value) for name, value in whole.tensors.items())
    assert resumed.quality == whole.quality
    assert [record["step"] for record in records(again, "exits")] == [1, 2, 3, 4, 5, 6]


def test_the_state_of_another_run_is_neither_used_nor_overwritten(job: Job) -> None:
    train_exits(job, CONFIG)
    before = (job.out / "state" / "exits.safetensors").read_bytes()
    with pytest.raises(BalconyError, match=r"learning_rate was 0\.01, now 0\.02"):
        train_exits(job, replace(CONFIG, learning_rate=2e-2))
    assert (job.out / "state" / "exits.safetensors").read_bytes() == before


# --- text that is short, precision, errors ---


def test_short_text_makes_short_sequences(job: Job, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Once upon a time there was a cat. " * 12)
    trained = train_exits(replace(job, texts=(short,)), replace(CONFIG, length=64, steps=1))
    assert trained.training["length"] == 64
    assert 32 <= trained.quality["heldout_tokens"] <= 44


def test_bf16_keeps_the_exits_in_fp32(job: Job, base: Base) -> None:
    half = load_base(job.folder, "bf16", "cpu")
    states = half.states(torch.randint(64, (2, 16)), [1])
    assert half.head.weight.dtype == torch.bfloat16
    assert states.hidden[1].dtype == torch.float32
    trained = train_exits(job, replace(CONFIG, dtype="bf16", steps=2))
    assert trained.norm(1).dtype == np.float32
    full = base.states(torch.arange(16)[None], [1]).hidden[1]
    torch.testing.assert_close(half.states(torch.arange(16)[None], [1]).hidden[1], full, rtol=0.05, atol=0.05)


def copy_with(folder: Path, target: Path, **changes: object) -> Path:
    """The toy with an edited config.json."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


@pytest.mark.parametrize(
    ("change", "config", "kind", "words"),
    [
        (lambda job, tmp: job, replace(CONFIG, splits=(1, 4)), ModelError, r"\[1, 4\] do not fit"),
        (lambda job, tmp: job, replace(CONFIG, length=65), ModelError, "longer than the 64 tokens"),
        (lambda job, tmp: job, replace(CONFIG, norm_start="none"), ModelError, "norm start 'none'"),
        (lambda job, tmp: job, replace(CONFIG, start="first"), ModelError, "no start 'first'"),
        (lambda job, tmp: job, replace(CONFIG, width="half"), ModelError, "width 'half'"),
        (lambda job, tmp: job, replace(CONFIG, loss="mse"), ModelError, "no loss 'mse'"),
        (lambda job, tmp: job, replace(CONFIG, loss="ce", temperature=2.0), ModelError, "has no temperature"),
        (lambda job, tmp: replace(job, texts=(tmp / "none.txt",)), CONFIG, DataError, r"none\.txt"),
        (lambda job, tmp: replace(job, heldout=(written(tmp, "a b"),)), CONFIG, DataError, "held-out .* 4"),
        (lambda job, tmp: replace(job, texts=(written(tmp, "  "),)), CONFIG, DataError, "training .* 0"),
        (lambda job, tmp: replace(job, device="abacus"), CONFIG, ModelError, "abacus"),
        (lambda job, tmp: replace(job, folder=copy_with(job.folder, tmp / "m", model_type="gpt2")), CONFIG,
         ModelError, "type 'gpt2'"),
        (lambda job, tmp: replace(job, folder=copy_with(job.folder, tmp / "m", num_hidden_layers=5)), CONFIG,
         ModelError, r"lack model\.layers\.4"),
        (lambda job, tmp: replace(job, folder=without(job.folder, tmp / "m", "model.safetensors")), CONFIG,
         ModelError, "cannot load the model"),
        (lambda job, tmp: replace(job, folder=without(job.folder, tmp / "m", "tokenizer.json")), CONFIG,
         ModelError, "cannot load the tokenizer"),
        (lambda job, tmp: replace(job, out=written(tmp, "a file")), CONFIG, ExitsError, "cannot make"),
        (lambda job, tmp: job, replace(CONFIG, learning_rate=float("nan")), ModelError, "no learning rate"),
        (lambda job, tmp: job, replace(CONFIG, learning_rate=1e30), ExitsError, "diverged at step 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_and_leaves_no_exits(
    job: Job,
    tmp_path: Path,
    change: Callable[[Job, Path], Job],
    config: TrainConfig,
    kind: type[BalconyError],
    words: str,
) -> None:
    with pytest.raises(kind, match=words) as caught:
        train_exits(change(job, tmp_path), config)
    assert caught.value.hint
    assert not list(job.out.glob("exits*"))


def written(folder: Path, text: str) -> Path:
    path = folder / "some.txt"
    path.write_text(text)
    return path


def without(folder: Path, target: Path, name: str) -> Path:
    copy_with(folder, target)
    (target / name).unlink()
    return target


def test_defaults_suit_the_base(toy: Path) -> None:
    config = TrainConfig.for_base(architectures.read(toy).arch, [1], length=None, learning_rate=None, seed=3)
    assert (config.length, config.learning_rate, config.seed) == (64, 5.7e-3, 3)
    assert loop.default_learning_rate(4096) == 5e-4


def test_splits_that_are_no_numbers_are_explained() -> None:
    assert architectures.parse_splits("3, 6,9") == [3, 6, 9]
    with pytest.raises(ModelError, match="'3;6'"):
        train("model", "--splits", "3;6", "--data", "x", "-o", "y")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from balcony_export import extras

    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in ("torch", "onnx") else object())
    with pytest.raises(BalconyError, match=r"onnx, torch[\s\S]*balcony-edge\[train\]"):
        extras.require_train()
    with pytest.raises(BalconyError, match=r"lacks packages: onnx[\s\S]*balcony-edge\[export\]"):
        extras.require_export()


def test_torch_is_not_loaded_where_it_would_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    from balcony_export import extras

    monkeypatch.setattr(extras.resource, "getrlimit", lambda _: (10**9, 10**9))
    with pytest.raises(BalconyError, match=r"1\.0 GB of address space") as caught:
        extras.require_train()
    assert "ulimit -v" in caught.value.hint
    assert not extras.has_train()


def test_a_cut_metrics_file_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"phase": "exits", "step": 1}\n{"phase": "exits", "step": 2}\n{"phase": "exi')
    run_folder.Metrics(path).begin("exits", 1)
    assert path.read_text() == '{"phase": "exits", "step": 1}\n'


# --- a real checkpoint ---


@pytest.mark.skipif(not (SHARED / "models" / "stories260K").is_dir(), reason="no shared folder with stories260K")
def test_a_few_steps_on_stories260k_beat_the_untrained_lens(tmp_path: Path) -> None:
    data = SHARED / "data" / "stories-simple.txt.xz"
    part = tmp_path / "stories.txt"
    part.write_text(corpus.read_text(data)[:400_000].replace("\n\n", "\n"))
    job = Job(SHARED / "models" / "stories260K", "stories260K", (part,), tmp_path / "exits", device="cpu")
    config = TrainConfig((2, 4), steps=25, rows=4, length=64, learning_rate=3e-3)
    quality = train_exits(job, config).quality
    assert quality["full_loss_nats"] < 2.0
    for split in ("2", "4"):
        row = quality["exits"][split]
        assert row["agreement"] > row["lens_agreement"] + 0.1
