"""Every choice of a training run: it trains, it exports, and the graph equals the torch module."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from balcony_edge.bundle.folder import Bundle
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import ModelError
from balcony_edge.measure.traffic import depth_costs
from balcony_edge.session import AdaptiveSession
from balcony_export.bundling.dry_run import describe
from balcony_export.bundling.writer import export_bundle, plan_export
from balcony_export.cli.train import train
from balcony_export.demo.tokenizer import train_tokenizer
from balcony_export.exits import placement, store
from balcony_export.exits.balcony import build
from balcony_export.exits.widths import WIDTHS, Width
from balcony_export.graphs.formats import ExportOptions
from balcony_export.model import architectures
from balcony_export.model.base import load_base
from balcony_export.model.blueprint import Blueprint
from balcony_export.training.loop import TrainConfig
from balcony_export.training.run import Job, train_exits
from balcony_export.verification.verify import verify
from helpers.families import ROWS, SIZES, SPLITS, as_modules, make_model
from helpers.in_process import invoke

LETTERS = "abcdefghijklmnop "
VOCABULARY = 288
LENGTH = 24
# A plain one; norms behind the parts only; four norms and caps; packed; scaled residuals and biases.
FAMILIES = ("Llama 2", "OLMo 2", "Gemma 2", "Phi-3, window", "Granite 3")
CHOICES: dict[str, dict[str, Any]] = {
    "mlp": {"width": "mlp"},
    "norm": {"width": "norm"},
    "next layer": {"start": "next", "norm_start": "layer"},
    "two layers": {"exit_layers": 2},
    "two next layers": {"exit_layers": 2, "start": "next"},
    "reverse": {"loss": "reverse-kl", "temperature": 2.0},
    "js": {"loss": "js"},
    "top k": {"loss": "topk-kl"},
    "text": {"loss": "ce"},
}


def make(folder: Path, row: str) -> Path:
    model_type, differences = ROWS[row]
    make_model(folder, model_type, differences | {"vocab_size": VOCABULARY})
    train_tokenizer([LETTERS], VOCABULARY, folder, SIZES["max_position_embeddings"])
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("llama"), "Llama 2")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    letters = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "letters.txt"
    path.write_text("<|endoftext|>\n".join("".join(letters.choices(LETTERS, k=60)) + "\n" for _ in range(40)))
    return path


def trained(folder: Path, text: Path, out: Path, **choice: Any) -> store.Exits:
    job = Job(folder, "m", (text,), out, device="cpu")
    config = TrainConfig(tuple(SPLITS), steps=3, rows=2, length=LENGTH, learning_rate=1e-2, **choice)
    return train_exits(job, config)


def assert_graphs_equal_modules(folder: Path, found: store.Exits, bundle: Bundle) -> None:
    base = load_base(folder, device="cpu")
    row = torch.from_numpy(np.random.default_rng(5).integers(0, VOCABULARY, (1, LENGTH)))
    ladder = Ladder(bundle, Runtime.start("cpu"))
    states = base.states(row, SPLITS)
    # Prompt first, then one position a step.
    ladder.append(row[0, :10].tolist())
    rows: dict[int, list[Any]] = {split: [ladder.logits(split)] for split in SPLITS}
    for token in row[0, 10:].tolist():
        ladder.append([token])
        for split in SPLITS:
            rows[split].append(ladder.next_logits(split)[None].copy())
    for split, normed in zip(SPLITS, as_modules(base, found).normed(states.hidden, states.context), strict=True):
        np.testing.assert_allclose(np.concatenate(rows[split]), base.head.logits(normed)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_trains_and_its_graph_equals_its_module(
    llama: Path, text: Path, tmp_path: Path, choice: str
) -> None:
    found = trained(llama, text, tmp_path / "exits", **CHOICES[choice])
    assert CHOICES[choice].items() <= found.training.items()
    start = build(
        load_base(llama, device="cpu"),
        SPLITS,
        found.training["norm_start"],
        found.width,
        found.training["start"],
        found.training["exit_layers"],
    )
    assert len(found.layers) == CHOICES[choice].get("exit_layers", 1)
    unmoved = [
        name
        for name, value in start.state_dict().items()
        if np.array_equal(value.numpy(), found.tensors[f"exits.{name}"])
    ]
    # The exit before the last layer starts as the whole model where it copies its last layer and norm.
    assert [name for name in unmoved if not name.startswith(f"{SPLITS[-1]}.")] == []
    bundle = export_bundle(llama, tmp_path / "bundle", model="m", exits=tmp_path / "exits")
    assert_graphs_equal_modules(llama, store.load(tmp_path / "exits"), bundle)


@pytest.mark.parametrize("row", FAMILIES[1:])
def test_an_mlp_exit_of_every_kind_of_family(text: Path, tmp_path: Path, row: str) -> None:
    folder = make(tmp_path / "model", row)
    found = trained(folder, text, tmp_path / "exits", width="mlp")
    bundle = export_bundle(folder, tmp_path / "bundle", model="m", exits=tmp_path / "exits")
    assert_graphs_equal_modules(folder, found, bundle)


@pytest.mark.parametrize("row", FAMILIES[1:])
def test_an_exit_of_two_layers_in_every_kind_of_family(text: Path, tmp_path: Path, row: str) -> None:
    folder = make(tmp_path / "model", row)
    found = trained(folder, text, tmp_path / "exits", exit_layers=2)
    bundle = export_bundle(folder, tmp_path / "bundle", model="m", exits=tmp_path / "exits")
    assert_graphs_equal_modules(folder, found, bundle)


@pytest.mark.parametrize(("width", "layers"), [*((width, 1) for width in WIDTHS), ("layer", 2)])
def test_verify_session_and_costs_know_the_width(
    llama: Path, text: Path, tmp_path: Path, width: Width, layers: int
) -> None:
    found = trained(llama, text, tmp_path / "exits", width=width, exit_layers=layers)
    bundle = export_bundle(
        llama, tmp_path / "bundle", model="m", exits=tmp_path / "exits", options=ExportOptions(precision="fp32")
    )
    assert {graph.caches for graph in bundle.manifest.exits} == {layers if width == "layer" else 0}
    assert verify(bundle, llama, [[3, 4, 5]], decode=4, exits=tmp_path / "exits").passed
    elements = layers * placement.exit_elements(architectures.read(llama), width)
    elements += len(found.frequent_tokens) * SIZES["hidden_size"]
    exit = bundle.manifest.exits[0]
    # fp32, the gate's rows of the head among them; the exit's own norm and those of its layer come on top, and of
    # attention the rope tables do not count.
    assert 4 * elements <= exit.weight_bytes <= 4 * elements + layers * 4 * SIZES["hidden_size"]
    assert depth_costs(bundle.manifest.graphs)[SPLITS[0]].token < 1
    with AdaptiveSession(bundle, budget="full", provider="cpu", speculate=True) as session:
        assert len(list(session.stream([3, 4, 5], 6))) <= 6
    assert "exit" in describe(plan_export(llama, exits=tmp_path / "exits"))


@pytest.mark.parametrize("choice", [{"width": "mlp"}, {"exit_layers": 2}])
def test_an_int8_cache_of_exits_with_no_attention_and_with_two(
    llama: Path, text: Path, tmp_path: Path, choice: dict[str, Any]
) -> None:
    trained(llama, text, tmp_path / "exits", **choice)
    bundle = export_bundle(
        llama, tmp_path / "bundle", model="m", exits=tmp_path / "exits", options=ExportOptions(cache="int8")
    )
    ladder = Ladder(bundle, Runtime.start("cpu"))
    ladder.append([3, 4, 5])
    assert np.isfinite(ladder.logits(SPLITS[0])).all()


def test_layers_that_an_exit_cannot_have_are_refused(llama: Path, text: Path, tmp_path: Path) -> None:
    for choice, complaint in (
        ({"exit_layers": 0}, "exits cannot have 0 layers"),
        ({"exit_layers": 9}, "exits cannot have 9 layers"),
        ({"exit_layers": 2, "width": "mlp"}, "exits of width mlp have no 2 layers"),
    ):
        with pytest.raises(ModelError, match=complaint):
            trained(llama, text, tmp_path / "exits", **choice)
    assert not (tmp_path / "exits").exists()


# --- what an exit starts as ---


def test_an_exit_may_start_as_the_layer_after_its_split(llama: Path) -> None:
    base = load_base(llama, device="cpu")
    balconies = build(base, SPLITS, "final", start="next")
    for split in SPLITS:
        expected = base.model.model.layers[split].state_dict()
        found = balconies.at(split).layer.state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_an_mlp_exit_is_the_layer_without_attention(llama: Path) -> None:
    base = load_base(llama, device="cpu")
    hidden = torch.randn(2, 5, SIZES["hidden_size"])
    last = base.model.model.layers[-1]
    expected = hidden + last.mlp(last.post_attention_layernorm(hidden))
    balcony = build(base, [1], "final", "mlp").at(1)
    torch.testing.assert_close(balcony.layer(hidden), expected)
    assert torch.equal(build(base, [1], "final", "norm").at(1).layer(hidden), hidden)


# --- presets ---


def test_the_papers_setting_by_name(llama: Path) -> None:
    arch = architectures.read(llama).arch
    config = TrainConfig.for_base(arch, [1], "paper", steps=7, rows=None)
    assert (config.steps, config.rows, config.learning_rate) == (7, 256, 5e-4)
    assert (config.loss, config.temperature, config.start, config.norm_start, config.width) == (
        "kl", 1.0, "last", "layer", "layer",
    )  # fmt: skip
    assert config.length == arch.context < 4096
    with pytest.raises(ModelError, match="no preset 'papers'"):
        TrainConfig.for_base(arch, [1], "papers")


# --- automatic splits ---


def blueprint(llama: Path, layers: int) -> Blueprint:
    from dataclasses import replace

    plan = architectures.read(llama)
    return replace(plan, arch=plan.arch.model_copy(update={"layers": layers}))


def test_three_exits_on_twelve_layers(llama: Path) -> None:
    plan = blueprint(llama, 12)
    assert placement.place(3, plan) == [3, 6, 8]
    assert placement.place(3, plan, "norm") == [3, 6, 9]
    assert placement.place(1, plan) == [6]


@given(layers=st.integers(2, 90), count=st.integers(1, 12), width=st.sampled_from(WIDTHS))
def test_automatic_splits_are_evenly_priced(llama: Path, layers: int, count: int, width: Width) -> None:
    plan = blueprint(llama, layers)
    layer, exit = placement.exit_elements(plan, "layer"), placement.exit_elements(plan, width)
    head = plan.arch.vocabulary * plan.arch.hidden
    try:
        splits = placement.place(count, plan, width)
    except ModelError:
        assert (layers - exit / layer) / (count + 1) < 1.5
        return
    assert architectures.check_splits(splits, layers) == splits
    costs = [exit + head, *(split * layer + exit + head for split in splits), layers * layer + head]
    ideal = (costs[-1] - costs[0]) / (count + 1)
    for index, cost in enumerate(costs):
        assert abs(cost - costs[0] - index * ideal) <= layer / 2 + 1
    assert costs[-2] < costs[-1]


def test_auto_is_read_from_the_command_line(llama: Path, text: Path, tmp_path: Path) -> None:
    options = f"--max-steps 1 --rows 2 --length {LENGTH} --device cpu --width mlp"
    out = tmp_path / "exits"
    invoke(train, str(llama), "--splits", "auto:2", "--data", str(text), "-o", str(out), *options.split())
    assert store.load(out).splits == tuple(placement.place(2, architectures.read(llama), "mlp"))
    assert store.load(out).width == "mlp"
    assert placement.automatic("auto") == 3
    assert placement.automatic("3,6") is None
    for wrong in ("auto:x", "auto:0", "auto:-1"):
        with pytest.raises(ModelError, match="cannot read the splits"):
            placement.automatic(wrong)
    with pytest.raises(ModelError, match="have no room"):
        invoke(train, str(llama), "--splits", "auto:6", "--data", str(text), "-o", str(out))
