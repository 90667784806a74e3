"""Verifying: bundles that are their model pass, any that is not is named by its first bad stage, nothing bad stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import typer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import MANIFEST_NAME, Precision, file_entry
from balcony_edge.cli.app import add_plugins
from balcony_edge.errors import DataError, PromptError, ProviderError, VerifyError
from balcony_export.bundling import self_check
from balcony_export.bundling.writer import export_bundle
from balcony_export.graphs.formats import ExportOptions
from balcony_export.graphs.weights import FILE_NAME
from balcony_export.verification.precision import measure_precision
from balcony_export.verification.reference import MemoryShortError, Reference, count_parameters
from balcony_export.verification.report import explain
from balcony_export.verification.verify import LIMIT, verify
from helpers.places import DEMO_BASE, DEMO_EXITS, MakeBundle

PROMPTS = [[5, 17, 250, 3, 88, 41], [9, 9, 100]]
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LOCAL = ["sliding_attention", "full_attention"] * 2
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma3_text": {"sliding_window": 5, "layer_types": LOCAL, "query_pre_attn_scalar": 20},
    "gemma2": {"sliding_window": 5, "layer_types": LOCAL, "final_logit_softcapping": 3.0},
    "qwen3": {"tie_word_embeddings": False},
    "phi3": {"sliding_window": 7, "tie_word_embeddings": False},
    "granite": {"residual_multiplier": 0.4, "logits_scaling": 3.0, "embedding_multiplier": 6.0},
}


@pytest.fixture
def verbs() -> typer.Typer:
    """The workstation's verbs alone."""
    app = typer.Typer(pretty_exceptions_enable=False)
    add_plugins(app)
    return app


def tampered(bundle: Bundle, out: Path, graph: str, initializer: str) -> Bundle:
    """A copy of the bundle with a float weight doubled, its digests made to fit."""
    shutil.copytree(bundle.path, out)
    model = onnx.load(out / graph, load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == initializer)
    place = {entry.key: entry.value for entry in tensor.external_data}
    data = np.memmap(out / FILE_NAME, np.uint8, "r+")
    weight = data[int(place["offset"]) :][: int(place["length"])].view(np.float32)
    weight *= 2
    data.flush()
    manifest = json.loads((out / MANIFEST_NAME).read_text())
    manifest["files"][FILE_NAME] = file_entry(out / FILE_NAME).model_dump()
    (out / MANIFEST_NAME).write_text(json.dumps(manifest))
    return Bundle(out)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_bundles_of_each_precision_pass(tiny_bundles: MakeBundle, tiny_model: Path, precision: Precision) -> None:
    found = verify(tiny_bundles(precision, "bit"), tiny_model, PROMPTS, 12)
    assert found.passed
    assert found.first_failure is None
    assert [row.stage for row in found.rows] == [
        *("config", "text", "segment 0-1", "segment 1-2", "segment 2-4", "segment 4-5", "exit 1", "exit 2", "exit 4"),
        *("head", "full", "greedy"),
    ]
    rows = {row.stage: row for row in found.rows}
    assert (found.prompts, found.positions, found.greedy_total) == (2, 9 + 24, 24)
    limits = {row.limit for row in found.rows if row.scaled is not None}
    if precision == "fp32":
        assert limits == {LIMIT}
        assert found.greedy_equal == 24
        assert rows["full"].kl_nats == pytest.approx(0.0, abs=1e-6)
        assert rows["exit 2"].scaled is not None
        assert rows["exit 2"].scaled < LIMIT
    else:
        assert limits == {None}
        assert rows["full"].kl_nats is not None
        assert rows["full"].kl_nats > 1e-6
    content = json.loads(found.to_json())
    assert content["passed"]
    assert [row["stage"] for row in content["rows"][:2]] == ["config", "text"]
    lines = found.table().splitlines()
    assert len(lines) == 1 + len(found.rows)
    assert all("PASS" in line for line in lines[1:])
    assert found.line().startswith("verified against ")


@pytest.mark.parametrize("family", FAMILIES)
def test_families_with_quirks_pass(tmp_path: Path, family: str) -> None:
    config = AutoConfig.for_model(family, **(SIZES | FAMILIES[family]))
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    Tokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    bundle = export_bundle(folder, tmp_path / "b", model=family, exits="init", splits=[1, 3])
    found = verify(bundle, folder, [[3, 14, 15, 92, 65, 35, 8, 9, 79]], 16)
    assert found.passed, found.table()
    assert found.greedy_equal == 16
    assert {"exit 1", "exit 3"} <= {row.stage for row in found.rows if row.limit == LIMIT}
    whole = model.eval()(torch.tensor([[3, 14, 15]])).logits[0].detach().numpy()
    reference = Reference(folder, [1])
    np.testing.assert_allclose(reference.logits(reference.states([3, 14, 15]).final), whole, rtol=0, atol=1e-6)


def test_trained_exits_and_gates_are_compared_where_their_folder_is_given(tmp_path: Path) -> None:
    options = ExportOptions(precision="fp32", exits="int8")
    bundle = export_bundle(DEMO_BASE, tmp_path / "b", model="demo", exits=DEMO_EXITS, splits=[3], options=options)
    ids = [[5, 17, 250, 3, 88, 41]]
    rows = {row.stage: row for row in verify(bundle, DEMO_BASE, ids, 4, exits=DEMO_EXITS).rows}
    assert all(row.passed for row in rows.values())
    # Only what was asked to be rounded is free of the limit.
    assert rows["segment 3-12"].limit == rows["full"].limit == LIMIT
    assert rows["exit 3"].limit is rows["gate 3"].limit is None
    assert rows["exit 3"].absolute is not None
    assert rows["exit 3"].absolute > LIMIT
    alone = {row.stage: row for row in verify(bundle, DEMO_BASE, ids, 4).rows}
    assert alone["exit 3"].absolute is None
    assert "--exits" in alone["exit 3"].note


@pytest.mark.parametrize(
    ("graph", "initializer", "stage"),
    [
        ("segment_1_2.onnx", "model.layers.1.mlp.down_proj.weight", "segment 1-2"),
        ("segment_4_5.onnx", "model.norm.weight", "segment 4-5"),
        ("exit_2.onnx", "exits.2.norm.weight", "exit 2"),
    ],
)
def test_the_first_bad_stage_is_named(
    tiny_bundles: MakeBundle, tiny_model: Path, tmp_path: Path, graph: str, initializer: str, stage: str
) -> None:
    found = verify(tampered(tiny_bundles("fp32", "bit"), tmp_path / "b", graph, initializer), tiny_model, PROMPTS, 4)
    assert not found.passed
    assert found.first_failure is not None
    assert found.first_failure.stage == stage
    assert stage in explain(found.first_failure)
    assert f"first at {stage}" in found.line()
    assert json.loads(found.to_json())["first_failure"] == stage


def test_values_that_are_not_finite_fail_at_any_precision(
    tiny_bundles: MakeBundle, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from balcony_export.verification.bundle_and_reference import BundleAndReference

    real = BundleAndReference.outputs

    def broken(both: BundleAndReference, stage: Any) -> Any:
        values = real(both, stage).copy()
        if stage.name == "segment 2-4":
            values[1, 0] = np.nan
        return values

    monkeypatch.setattr(BundleAndReference, "outputs", broken)
    found = verify(tiny_bundles("int8", "bit"), tiny_model, PROMPTS, 2)
    assert found.first_failure is not None
    assert found.first_failure.stage == "segment 2-4"
    assert "not finite" in explain(found.first_failure)
    assert json.loads(found.to_json())["rows"][4]["absolute"] is None


@pytest.mark.parametrize("tie", [False, True])
def test_a_greedy_token_that_is_not_the_models_fails_unless_the_model_has_a_tie(
    tiny_bundles: MakeBundle, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tie: bool
) -> None:
    from balcony_export.verification.bundle_and_reference import BundleAndReference

    logits = Reference.logits

    def second(both: BundleAndReference, ids: list[int], expected: list[int]) -> list[int]:
        """The right token, then the other one of the two best."""
        row = logits(both.reference, both.reference.states([*ids, *expected]).final)[len(ids)]
        return [expected[0], next(int(token) for token in np.argsort(row)[-2:] if token != expected[1])]

    def level(reference: Reference, normed: Any) -> Any:
        """Logits whose two best are the same."""
        rows = logits(reference, normed)
        for row in rows:
            order = np.argsort(row)
            row[order[-2]] = row[order[-1]] if tie else row[order[-1]] - 0.5
        return rows

    monkeypatch.setattr("balcony_export.verification.verify._decode", second)
    monkeypatch.setattr("balcony_export.verification.verify._compare", lambda *_: None)
    monkeypatch.setattr(Reference, "logits", level)
    found = verify(tiny_bundles("fp32", "bit"), tiny_model, PROMPTS[:1], 4)
    assert found.passed == tie
    assert found.greedy_equal == 1
    failure = found.first_failure
    assert (failure is None) == tie
    assert failure is None or "1 of 4 tokens equal" in explain(failure)


def test_a_divergence_above_the_callers_limit_fails(tiny_bundles: MakeBundle, tiny_model: Path) -> None:
    found = verify(tiny_bundles("int4", "bit"), tiny_model, PROMPTS, 2, max_kl=1e-9)
    assert found.first_failure is not None
    assert found.first_failure.stage == "full"
    assert "1e-09" in explain(found.first_failure)


def test_another_model_is_refused_by_name(tiny_bundles: MakeBundle, tiny_model: Path) -> None:
    with pytest.raises(VerifyError, match="was exported from base"):
        verify(tiny_bundles("fp32", "bit"), DEMO_BASE, PROMPTS)


@pytest.mark.parametrize("prompts", [[], [[]], [[1] * 97]])
def test_prompts_that_cannot_be_compared(tiny_bundles: MakeBundle, tiny_model: Path, prompts: list[list[int]]) -> None:
    with pytest.raises(PromptError):
        verify(tiny_bundles("fp32", "bit"), tiny_model, prompts)


def test_a_bundle_without_splits(tiny_model: Path, tmp_path: Path) -> None:
    found = verify(export_bundle(tiny_model, tmp_path / "b", model="m", splits=[]), tiny_model, PROMPTS, 4)
    assert found.passed
    assert [row.stage for row in found.rows] == ["config", "text", "segment 0-5", "head", "full", "greedy"]


def test_a_prompt_that_fills_the_context(tiny_bundles: MakeBundle, tiny_model: Path) -> None:
    found = verify(tiny_bundles("fp32", "bit"), tiny_model, [[7, 8] * 48])
    assert found.passed
    assert (found.positions, found.greedy_total) == (96, 0)


def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100_000))


def test_a_reference_that_does_not_fit_is_refused_before_it_is_loaded(
    tiny_bundles: MakeBundle, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little_memory(monkeypatch)
    monkeypatch.setattr("balcony_export.verification.bundle_and_reference.Reference", None)
    with pytest.raises(MemoryShortError, match="GB"):
        verify(tiny_bundles("fp32", "bit"), tiny_model, PROMPTS)
    shapes = torch.nn.Module.parameters(AutoModelForCausalLM.from_pretrained(tiny_model))
    assert count_parameters(tiny_model) == sum(parameter.numel() for parameter in shapes)


# --- the text report ----------------------------------------------------------------------------------------------


def test_what_precision_costs_on_a_text(tiny_bundles: MakeBundle, tiny_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n<|endoftext|>\nthe lazy fox\n" * 3)
    exact = measure_precision(tiny_bundles("fp32", "bit"), tiny_model, [text], window=16)
    model, full, *exits = exact.rows
    assert [row.name for row in exits] == ["bundle, exit 4", "bundle, exit 2", "bundle, exit 1"]
    assert (model.kl_nats, model.agreement) == (None, None)
    assert full.agreement == 1.0
    assert full.kl_nats == pytest.approx(0.0, abs=1e-6)
    assert full.perplexity == pytest.approx(model.perplexity, rel=1e-4)
    assert exact.window == 16
    rounded = measure_precision(tiny_bundles("int4", "bit"), tiny_model, [text], window=16)
    assert rounded.rows[0] == model
    assert rounded.positions == exact.positions
    assert rounded.rows[1].kl_nats is not None
    assert rounded.rows[1].kl_nats > 1e-4
    assert [row["name"] for row in json.loads(rounded.to_json())["rows"]] == [row.name for row in rounded.rows]
    assert len(rounded.table().splitlines()) == 6


@pytest.mark.parametrize("tokens", [5, 16, 17, 33])
def test_the_texts_perplexity_is_that_of_its_tokens(
    tiny_bundles: MakeBundle, tiny_model: Path, tmp_path: Path, tokens: int
) -> None:
    """Of any length: the last few positions that are compared at once may be one alone, after which nothing follows."""
    from balcony_edge.text.codec import TextCodec

    text, bundle = tmp_path / "text.txt", tiny_bundles("fp32", "bit")
    codec = TextCodec(bundle)
    text.write_text(codec.decode(codec.encode("the quick brown fox jumps over the lazy dog " * 9)[:tokens]))
    ids = torch.tensor([codec.encode(text.read_text().strip())])
    loss = AutoModelForCausalLM.from_pretrained(tiny_model)(ids, labels=ids).loss.item()
    assert measure_precision(bundle, tiny_model, [text]).rows[0].perplexity == pytest.approx(np.exp(loss), rel=1e-4)


def test_a_text_without_anything_to_predict(tiny_bundles: MakeBundle, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="two tokens"):
        measure_precision(tiny_bundles("fp32", "bit"), tiny_model, [tmp_path / "empty.txt"])


# --- the verbs ----------------------------------------------------------------------------------------------------


def test_the_verify_verb(verbs: typer.Typer, tiny_bundles: MakeBundle, tiny_model: Path, tmp_path: Path) -> None:
    bundle = tiny_bundles("fp32", "bit")
    (tmp_path / "prompt.txt").write_text("jumps over")
    arguments = ["verify", str(bundle.path), str(tiny_model), "--tokens", "4"]
    given = CliRunner().invoke(verbs, [*arguments, "-p", "the fox", "-f", str(tmp_path / "prompt.txt"), "--json"])
    assert given.exit_code == 0, given.output
    assert json.loads(given.stdout)["prompts"] == 2
    habit = CliRunner().invoke(verbs, arguments)
    assert habit.exit_code == 0
    assert "segment 0-1" in habit.stdout
    assert "verified against" in habit.stderr
    report = CliRunner().invoke(verbs, [*arguments, "--text", str(tmp_path / "prompt.txt")])
    assert report.exit_code == 0
    assert "perplexity" in report.stdout


def test_a_bundle_that_fails_ends_the_verb_with_the_table_and_an_error(
    verbs: typer.Typer, tiny_bundles: MakeBundle, tiny_model: Path, tmp_path: Path
) -> None:
    bad = tampered(tiny_bundles("fp32", "bit"), tmp_path / "b", "head.onnx", "model.embed_tokens.weight")
    result = CliRunner().invoke(verbs, ["verify", str(bad.path), str(tiny_model), "-p", "the fox", "--tokens", "2"])
    assert result.exit_code == 1
    assert "FAIL" in result.stdout
    assert isinstance(result.exception, VerifyError)
    # The head reads the embedding's bytes: the embedding comes first.
    assert "segment 0-1" in result.exception.message
    assert "balcony-edge export" in result.exception.hint


def export_arguments(model: Path, out: Path) -> list[str]:
    return ["export", str(model), "--exits", "init", "--splits", "2", "-o", str(out)]


def test_an_export_is_verified(verbs: typer.Typer, tiny_model: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(verbs, export_arguments(tiny_model, tmp_path / "b"))
    assert result.exit_code == 0, result.output
    assert "verified against base in fp32" in result.stderr
    assert Bundle(tmp_path / "b").manifest.splits == [2]


def test_an_export_that_fails_leaves_nothing_and_keeps_what_was_there(
    verbs: typer.Typer, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = export_bundle(tiny_model, tmp_path / "b", model="m", splits=[3]).manifest
    monkeypatch.setattr("balcony_export.verification.verify.LIMIT", 0.0)
    result = CliRunner().invoke(verbs, export_arguments(tiny_model, tmp_path / "b"))
    assert isinstance(result.exception, VerifyError)
    assert "was removed" in result.exception.message
    assert "--no-verify" in result.exception.hint
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert Bundle(tmp_path / "b").manifest == before
    result = CliRunner().invoke(verbs, [*export_arguments(tiny_model, tmp_path / "c"), "--no-verify"])
    assert result.exit_code == 0
    assert "verified" not in result.stderr


def test_an_export_goes_on_where_the_reference_does_not_fit(
    verbs: typer.Typer, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little_memory(monkeypatch)
    result = CliRunner().invoke(verbs, export_arguments(tiny_model, tmp_path / "b"))
    assert result.exit_code == 0, result.output
    assert "verify skipped: the fp32 reference" in result.stderr
    assert f"balcony-edge verify {tmp_path / 'b'} {tiny_model}" in result.stderr
    Bundle(tmp_path / "b")


def test_a_provider_that_is_not_here_is_no_failure(
    tiny_bundles: MakeBundle, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ProviderError("this ONNX Runtime has no CUDA provider")

    monkeypatch.setattr("balcony_export.verification.verify.verify", refuse)
    said: list[str] = []
    self_check.self_check(tiny_model, None, "balcony-edge verify b m", said.append)(tiny_bundles("fp32", "bit"))
    assert said[0].startswith("verify skipped: this ONNX Runtime has no CUDA provider")
