"""Checkpoints as the Hub and people's disks have them: right as transformers takes them, or refused by the real reason.

Refused before any weight is read and anything is written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from balcony_edge.errors import ModelError
from balcony_export.bundling.writer import export_bundle, plan_export
from balcony_export.model.base import load_base
from balcony_export.model.download import base_name, resolve
from balcony_export.model.tensor_source import open_checkpoint
from balcony_export.training.loop import TrainConfig
from balcony_export.training.run import Job, train_exits
from balcony_export.verification.config_reading import check_config
from balcony_export.verification.verify import verify
from helpers.command import fails, here
from helpers.families import ROWS, make_model
from helpers.packed_checkpoints import write_packed

COMMIT = "e4c1a2b3d4f5061728394a5b6c7d8e9f00112233"
SU = {"type": "su", "short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [2.0] * 8}


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with a head of its own."""
    folder = tmp_path_factory.mktemp("untied") / "model"
    make_model(folder, *ROWS["Llama 2"])
    return folder


def edited(model: Path, folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """A copy of a model whose tensors went through ``change``."""
    shutil.copytree(model, folder)
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def configured(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def bare(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("model."): value for name, value in tensors.items()}


def headless(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tensors.items() if name != "lm_head.weight"}


# --- names without "model." ---


@pytest.mark.parametrize("row", ["SmolLM2, tied", "Llama 2"])
def test_names_without_model_are_the_bodys(row: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    make_model(whole, *ROWS[row])
    folder = edited(whole, tmp_path / "bare", bare)
    assert not any(name.startswith("model.") for name in load_file(folder / "model.safetensors"))
    bundle = export_bundle(folder, tmp_path / "b", model="m", exits="init", splits=[2])
    weights = export_bundle(whole, tmp_path / "w", model="m", exits="init", splits=[2]).manifest.files["weights.bin"]
    assert bundle.manifest.files["weights.bin"] == weights
    assert verify(bundle, folder, [[1, 2, 3, 4]], 2).passed
    assert load_base(folder, device="cpu").head.vocabulary == 97


def test_as_transformers_saves_the_body_alone(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", *ROWS["SmolLM2, tied"])
    folder = tmp_path / "body"
    model.model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "model" / name, folder)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaModel"]
    bundle = export_bundle(folder, tmp_path / "b", model="m")
    assert verify(bundle, folder, [[1, 2, 3, 4]], 2).passed


def test_packed_weights_have_such_names_too(untied: Path, tmp_path: Path) -> None:
    write_packed(untied, tmp_path / "packed", "gptq", act_order=True)
    folder = edited(tmp_path / "packed", tmp_path / "bare", bare)
    name = "model.layers.1.mlp.down_proj.weight"
    found, meant = (open_checkpoint(one).tensor(name) for one in (folder, tmp_path / "packed"))
    assert (found == meant).all()


def test_a_name_that_is_there_twice_stays_unused(untied: Path, tmp_path: Path) -> None:
    folder = edited(untied, tmp_path / "twice", lambda found: {**found, "norm.weight": found["model.norm.weight"] + 1})
    with pytest.raises(ModelError, match=r"1 tensors that a llama model does not use, as norm\.weight"):
        plan_export(folder)


# --- without a language model's head ---


def without_work(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """Export and training refuse a folder in these words, without a weight read or a file written."""
    monkeypatch.setattr("balcony_export.model.checkpoint.Checkpoint._read", None)
    with pytest.raises(ModelError, match=words) as caught:
        export_bundle(folder, out / "bundle", model="m")
    assert "ForCausalLM" in caught.value.hint
    text = out.parent / "text.txt"
    text.write_text("a a a a\n" * 400)
    with pytest.raises(ModelError, match=words):
        train_exits(Job(folder, "m", (text,), out / "exits", device="cpu"), TrainConfig((2,), steps=1, length=8))
    assert not out.exists()


@pytest.mark.parametrize(
    ("row", "kind"),
    [("Qwen2.5, biases", "SequenceClassification"), ("Llama 2", "SequenceClassification"), ("Llama 2", "Token")],
)
def test_a_classifier_is_no_language_model(
    row: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    made = make_model(tmp_path / "model", *ROWS[row])
    name = type(made).__name__.replace("CausalLM", kind if kind != "Token" else "TokenClassification")
    folder = tmp_path / "classifier"
    getattr(transformers, name)(made.config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "model" / file, folder)
    assert "score.weight" in load_file(folder / "model.safetensors")
    without_work(folder, tmp_path / "out", monkeypatch, f"holds a {name}: its head gives no tokens")


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (["LlamaForCausalLM"], False),
        (["LlamaForCausalLMEagle3"], False),
        (["LLaMAForCausalLM"], False),
        (["LlamaModel"], False),
        ([], False),
        (None, False),
        ("LlamaForCausalLM", False),
        (["Qwen2ForRewardModel"], True),
        (["LlamaForQuestionAnswering"], True),
        (["LlamaForSequenceClassification", "LlamaForCausalLM"], False),
    ],
)
def test_what_a_model_is_for_is_read_in_its_name(names: Any, refused: bool, untied: Path, tmp_path: Path) -> None:
    folder = configured(Path(shutil.copytree(untied, tmp_path / "model")), architectures=names)
    if not refused:
        plan_export(folder)
        return
    with pytest.raises(ModelError, match="gives no tokens"):
        plan_export(folder)


def test_through_torch_refuses_classifiers_too(untied: Path, tmp_path: Path) -> None:
    from balcony_export.bundling.torch_bundle import export_through_torch

    pytest.importorskip("onnxscript")
    folder = Path(shutil.copytree(untied, tmp_path / "model"))
    configured(folder, model_type="gpt_neox", architectures=["GPTNeoXForSequenceClassification"])
    with pytest.raises(ModelError, match="gives no tokens"):
        export_through_torch(folder, tmp_path / "b", model="m")


@pytest.mark.parametrize("change", [headless, lambda tensors: bare(headless(tensors))])
def test_a_body_without_a_head_is_said_to_have_none(untied: Path, tmp_path: Path, change: Any) -> None:
    folder = edited(untied, tmp_path / "body", change)
    with pytest.raises(ModelError, match="have no LM head") as caught:
        export_bundle(folder, tmp_path / "out" / "b", model="m")
    assert "ForCausalLM" in caught.value.hint
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="have no LM head"):
        load_base(folder, device="cpu")


# --- the first name of longrope ---


def test_phi_3_with_su_rope_is_what_transformers_computes(tmp_path: Path) -> None:
    """As the first checkpoints of Phi-3 128k have it, whose config no transformers writes any more."""
    make_model(tmp_path / "model", "phi3", {"num_hidden_layers": 2, "original_max_position_embeddings": 32})
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    path.write_text(json.dumps(config | {"rope_scaling": SU, "rope_theta": 10000.0}))
    bundle = export_bundle(tmp_path / "model", tmp_path / "b", model="m", splits=[1])
    # Behind this length the frequencies change, which no table holds.
    assert bundle.manifest.architecture.context == 32
    found = verify(bundle, tmp_path / "model", [list(range(1, 25))], 4)
    assert found.passed, found.line()
    check_config(tmp_path / "model", bundle.manifest.architecture)


# --- links ---


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "LICENSE", "other.safetensors"],
)
def test_a_link_to_nothing_is_named(untied: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(untied, tmp_path / "model"))
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("../../blobs/0123")
    with pytest.raises(ModelError, match=rf"{name} is a link to \.\./\.\./blobs/0123, which is not there") as caught:
        export_bundle(folder, tmp_path / "out" / "b", model="m")
    assert "cp -rL" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_links_that_nobody_reads_do_no_harm(untied: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(untied, tmp_path / "model"))
    (folder / "notes").symlink_to("nowhere")
    plan_export(folder)


def test_a_name_that_is_a_link_to_nothing_asks_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to("/nowhere/at/all")
    with pytest.raises(ModelError, match="models/mine is a link to /nowhere/at/all, which is not there"):
        resolve("models/mine")


# --- the Hub's cache ---


def snapshot(model: Path, cache: Path, repo: str) -> Path:
    """The model as the Hub's cache keeps it: links to blobs."""
    top = cache / f"models--{repo.replace('/', '--')}"
    folder = top / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (top / "blobs").mkdir()
    for number, path in enumerate(sorted(model.iterdir())):
        shutil.copy(path, top / "blobs" / str(number))
        (folder / path.name).symlink_to(Path("../../blobs") / str(number))
    return folder


@pytest.mark.parametrize("repo", ["HuggingFaceTB/SmolLM2-135M", "gpt2"])
def test_a_snapshot_has_the_name_of_its_repository(untied: Path, tmp_path: Path, repo: str) -> None:
    folder = snapshot(untied, tmp_path, repo)
    (tmp_path / "mine").symlink_to(folder)
    for given in (folder, tmp_path / "mine", f"{folder}/"):
        assert base_name(str(given), resolve(str(given))) == repo
    bundle = export_bundle(folder, tmp_path / "b", model=str(folder))
    assert bundle.manifest.base.model == repo
    assert COMMIT not in (bundle.path / "README.md").read_text()


def test_other_folders_keep_their_names(untied: Path, tmp_path: Path) -> None:
    for place in (f"snapshots/{COMMIT}", f"models--a--b/{COMMIT}", "models--c--d"):
        folder = Path(shutil.copytree(untied, tmp_path / place))
        assert base_name(str(folder), folder) == folder.name


def test_the_command_says_so_in_a_line(untied: Path, tmp_path: Path) -> None:
    folder = configured(Path(shutil.copytree(untied, tmp_path / "m")), architectures=["LlamaForSequenceClassification"])
    fails(here("export", str(folder), "-o", str(tmp_path / "b")), "LlamaForSequenceClassification", "ForCausalLM")
    assert not (tmp_path / "b").exists()
