"""Export: the base bit for bit, exits as their torch modules, clear refusals, nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoTokenizer

from balcony_edge import AdaptiveSession
from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import Graph, Precision
from balcony_edge.cli.app import add_plugins
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import BalconyError, BundleError, ExitsError, ModelError
from balcony_edge.telemetry import FakeSensors
from balcony_export.bundling.writer import export_bundle
from balcony_export.exits import store
from balcony_export.exits.gate import Gate, gate_head
from balcony_export.graphs.formats import ExportOptions
from balcony_export.graphs.weights import FILE_NAME
from balcony_export.model.base import load_base
from balcony_export.model.checkpoint import Checkpoint, Tensors, TensorSource
from balcony_export.training.chunked_loss import predictions
from helpers.families import as_modules
from helpers.places import DEMO_BASE, DEMO_EXITS, MakeBundle

STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her dog."


def same(actual: np.ndarray, expected: np.ndarray) -> None:
    """The same bits, not just close."""
    assert actual.shape == expected.shape
    assert actual.tobytes() == np.ascontiguousarray(expected).tobytes()


def read_weights(bundle: Bundle, graph: Graph) -> dict[str, np.ndarray]:
    """The float32 initialisers of a graph as they lie in the weights file."""
    model = onnx.load(bundle.file(graph.file), load_external_data=False)
    data = np.memmap(bundle.file(FILE_NAME), np.uint8, "r")
    found = {}
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place and tensor.data_type == onnx.TensorProto.FLOAT:
            start, length = int(place["offset"]), int(place["length"])
            found[tensor.name] = data[start : start + length].view(np.float32).reshape(tensor.dims)
    return found


def check_layer(found: dict[str, np.ndarray], name: str, source: TensorSource, prefix: str) -> None:
    """One decoder layer in the weights file against its source, tensor by tensor."""
    qkv = np.concatenate([source.tensor(f"{prefix}self_attn.{part}_proj.weight") for part in "qkv"])
    same(found[f"{name}.attn.qkv_proj.weight"], qkv)
    same(found[f"{name}.attn.o_proj.weight"], source.tensor(f"{prefix}self_attn.o_proj.weight"))
    for part in ("gate", "up", "down"):
        same(found[f"{name}.mlp.{part}_proj.weight"], source.tensor(f"{prefix}mlp.{part}_proj.weight"))
    for part in ("input_layernorm", "post_attention_layernorm"):
        same(found[f"{name}.{part}.weight"], source.tensor(f"{prefix}{part}.weight"))


def check_base(bundle: Bundle, folder: Path) -> None:
    """Every tensor of the checkpoint is in the bundle, bit for bit, once."""
    checkpoint = Checkpoint(folder)
    found: dict[str, np.ndarray] = {}
    for graph in [*bundle.manifest.segments, bundle.manifest.head]:
        found |= read_weights(bundle, graph)
    same(found["model.embed_tokens.weight"], checkpoint.tensor("model.embed_tokens.weight"))
    same(found["model.norm.weight"], checkpoint.tensor("model.norm.weight"))
    for layer in range(bundle.manifest.architecture.layers):
        check_layer(found, f"model.layers.{layer}", checkpoint, f"model.layers.{layer}.")


def test_the_base_is_the_checkpoint_bit_for_bit(tiny_bundles: MakeBundle, tiny_model: Path) -> None:
    check_base(tiny_bundles("fp32", "bit"), tiny_model)


def test_the_demo_base_is_its_checkpoint_bit_for_bit(demo_export: Bundle) -> None:
    check_base(demo_export, DEMO_BASE)
    trained = store.load(DEMO_EXITS)
    for graph in demo_export.manifest.exits:
        found = read_weights(demo_export, graph)
        check_layer(found, f"exits.{graph.stop}", Tensors(dict(trained.tensors)), f"exits.{graph.stop}.layer.")
    assert demo_export.manifest.base.sha256 == Bundle.demo().manifest.base.sha256


def test_exits_and_gates_equal_their_torch_modules(demo_export: Bundle) -> None:
    """The trained demo exits: hidden states through the base, then the Balcony, as training runs them."""
    trained = store.load(DEMO_EXITS)
    base = load_base(DEMO_BASE, "fp32", torch.device("cpu"))
    modules = as_modules(base, trained)
    cut = gate_head(base.head, trained.frequent_tokens)
    ids = np.random.default_rng(3).integers(1, 2048, 48)
    ladder = Ladder(demo_export, Runtime.start("cpu"))
    ladder.append(ids.tolist())
    with torch.inference_mode():
        states = base.states(torch.from_numpy(ids[None]), trained.splits)
        for split, normed in zip(trained.splits, modules.normed(states.hidden, states.context), strict=True):
            expected = base.head.logits(normed)[0].numpy()
            np.testing.assert_allclose(ladder.logits(split), expected, rtol=0, atol=1e-4)
            seen = predictions(normed[:, -1:], cut)
            logit = Gate.of(trained.gate(split)).logits(*seen.confidence())
            assert ladder.gate(split) == pytest.approx(logit.item(), abs=1e-4)
            assert ladder.draft(split) == trained.frequent_tokens[int(seen.token)]


@pytest.mark.parametrize(("precision", "limit"), [("int8", 0.005), ("int4", 0.3)])
def test_quantised_weights_stay_near(tmp_path: Path, precision: Precision, limit: float) -> None:
    """KL(fp32 ‖ quantised) of the demo's full depth in nats, mean over the positions of a story's beginning."""
    tokens = AutoTokenizer.from_pretrained(DEMO_BASE)(STORY)["input_ids"]
    logits = {}
    names: tuple[Precision, ...] = ("fp32", precision)
    for name in names:
        bundle = export_bundle(
            DEMO_BASE, tmp_path / name, model="demo", splits=[6], options=ExportOptions(precision=name)
        )
        ladder = Ladder(bundle, Runtime.start("cpu"))
        ladder.append(tokens)
        logits[name] = torch.log_softmax(torch.from_numpy(ladder.logits(ladder.full)), -1)
    kl = (logits["fp32"].exp() * (logits["fp32"] - logits[precision])).sum(-1).mean().item()
    assert 0.0 < kl < limit


def test_segments_alone(tiny_model: Path, tmp_path: Path) -> None:
    bundle = export_bundle(tiny_model, tmp_path / "b", model=str(tiny_model), exits=None, splits=[2])
    assert bundle.depths == (5,)
    assert len(bundle.manifest.segments) == 2
    ladder = Ladder(bundle, Runtime.start("cpu"))
    ladder.append([1, 2, 3])
    assert ladder.next_logits(5).shape == (288,)
    with AdaptiveSession(bundle, budget="0.001ms", provider="cpu", sensors=FakeSensors()) as session:
        assert {token.depth for token in session.stream([1, 2, 3], 4, stop=[])} <= {5}


def test_an_untied_head_has_its_own_weight(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    config = model.config
    config.tie_word_embeddings = False
    torch.manual_seed(1)
    untied = LlamaForCausalLM(config).eval()
    folder = tmp_path / "untied"
    shutil.copytree(tiny_model, folder)
    untied.save_pretrained(folder)
    ids = [3, 1, 4, 1, 5]
    with torch.inference_mode():
        expected = untied(input_ids=torch.tensor([ids])).logits[0].numpy()
    bundle = export_bundle(folder, tmp_path / "b", model="untied", exits="init", splits=[2])
    ladder = Ladder(bundle, Runtime.start("cpu"))
    ladder.append(ids)
    np.testing.assert_allclose(ladder.logits(5), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("splits", [[0], [5], [2, 2], [-1], []])
def test_splits_out_of_range(tiny_model: Path, tmp_path: Path, splits: list[int]) -> None:
    with pytest.raises(ModelError, match="splits"):
        export_bundle(tiny_model, tmp_path / "b", model="m", exits="init", splits=splits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"attention_bias": True}, "bias"),
        ({"hidden_act": "relu"}, "relu"),
        ({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}}, "spiral"),
        ({"hidden_size": None}, "hidden_size"),
        ({"intermediate_size": 100}, "shape"),
    ],
)
def test_models_that_would_export_wrongly(
    tiny_model: Path, tmp_path: Path, change: dict[str, object], word: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=word):
        export_bundle(folder, tmp_path / "b", model="m", exits="init", splits=[2])
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_incomplete_model_folders(tiny_model: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        export_bundle(folder, tmp_path / "b", model="m", exits="init", splits=[2])


def test_a_truncated_checkpoint_leaves_nothing_behind(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        export_bundle(folder, tmp_path / "out" / "b", model="m", exits="init", splits=[2])
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_exits_of_another_base_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ExitsError, match="other weights"):
        export_bundle(tiny_model, tmp_path / "b", model="m", exits=DEMO_EXITS)


def test_a_folder_that_is_no_bundle_is_not_overwritten(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(BundleError, match="no bundle"):
        export_bundle(tiny_model, tmp_path, model="m", exits="init", splits=[2])
    assert (tmp_path / "precious.txt").read_text() == "keep me"


def test_a_bundle_is_replaced_whole(tiny_model: Path, tmp_path: Path) -> None:
    for splits in ([2], [1, 3]):
        bundle = export_bundle(tiny_model, tmp_path / "b", model="m", exits="init", splits=splits)
        assert bundle.manifest.splits == splits
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_export_verb(tiny_model: Path, tmp_path: Path) -> None:
    import typer
    from typer.testing import CliRunner

    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    from balcony_export.cli.export import export

    app.command()(export)
    arguments = ["export", str(tiny_model), "--exits", "init", "--splits", "1,3", "--precision", "int8"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "b")])
    assert result.exit_code == 0, result.output
    assert Bundle(tmp_path / "b").depths == (1, 3, 5)
    result = CliRunner().invoke(app, ["export", "nobody/nothing", "--offline", "-o", str(tmp_path / "c")])
    assert isinstance(result.exception, BalconyError)
    assert "nobody/nothing" in str(result.exception)


def test_the_workstations_verbs_join_by_entry_point() -> None:
    import typer

    app = typer.Typer()
    add_plugins(app)
    assert {"train", "export"} <= {command.name for command in app.registered_commands}
