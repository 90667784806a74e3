"""GGUF files as models: what is read equals the checkpoint that they were made of, and transformers' own reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import ModelError
from balcony_export.bundling.writer import export_bundle
from balcony_export.graphs.weights import FILE_NAME
from balcony_export.model import architectures
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.download import resolve
from balcony_export.model.families import FAMILIES
from balcony_export.model.gguf.config import LLAMA_3, config_of
from balcony_export.model.gguf.header import read_contents
from balcony_export.model.gguf.layouts import LAYOUTS
from balcony_export.model.gguf.weights import read_rows
from balcony_export.model.tensor_source import open_checkpoint
from balcony_export.model.transformers_model import load_frozen
from helpers.families import ROWS, make_model
from helpers.gguf_files import Kind, finish, write

# What a file cannot say is as llama.cpp takes it: heads' size as the scale, and windows in the usual pattern.
AS_IN_A_FILE: dict[str, dict[str, Any]] = {
    "Gemma 2": {"query_pre_attn_scalar": 32},
    "Gemma 3": {"query_pre_attn_scalar": 32, "layer_types": None},
    "SmolLM3, layers without rope": {"no_rope_layers": None},
}
NAMES = [name for name in ROWS if name != "Qwen2, some windows"]
# The architectures that transformers reads from GGUF too, and a row of each.
TRANSFORMERS_READS = ["Llama 2", "Qwen2.5, biases", "Qwen3, q/k norm", "Phi-3, window", "Gemma 2", "Gemma 3"]
KINDS = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0]


def make(row: str, folder: Path, kind: Kind = Kind.F32) -> tuple[Any, Path]:
    """The row's model, saved as safetensors in ``folder / "model"``, and the folder that its GGUF file becomes."""
    model_type, differences = ROWS[row]
    model = make_model(folder / "model", model_type, differences | AS_IN_A_FILE.get(row, {}))
    return model, resolve(str(write(folder / "tiny.gguf", model, kind)))


def same_blueprints(found: Blueprint, expected: Blueprint) -> None:
    """Every field equal; frequencies as numbers."""
    assert found.ropes.keys() == expected.ropes.keys()
    for name, rope in expected.ropes.items():
        np.testing.assert_allclose(found.ropes[name].frequencies, rope.frequencies, rtol=3e-7, atol=0)
        assert found.ropes[name].factor == pytest.approx(rope.factor, rel=1e-6)
    fields = [{**vars(blueprint), "ropes": None} for blueprint in (found, expected)]
    assert fields[0] == fields[1]


@pytest.mark.parametrize("row", NAMES)
def test_a_file_is_the_model_that_it_was_made_of(row: str, tmp_path: Path) -> None:
    model, folder = make(row, tmp_path)
    same_blueprints(architectures.read(folder), architectures.read(tmp_path / "model"))
    source, checkpoint = open_checkpoint(folder), open_checkpoint(tmp_path / "model")
    assert set(checkpoint.names()) == set(source.names())
    for name in checkpoint.names():
        # Gemma's norms have been added one to, in fp32.
        tolerance = 1e-6 if "norm" in name and "gemma" in model.config.model_type else 0
        np.testing.assert_allclose(source.tensor(name), checkpoint.tensor(name), rtol=0, atol=tolerance)
    loaded = load_frozen(folder)
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        np.testing.assert_allclose(loaded(ids).logits, model(ids).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("row", TRANSFORMERS_READS)
def test_weights_are_those_that_transformers_reads(row: str, kind: Kind, tmp_path: Path) -> None:
    _, folder = make(row, tmp_path, kind)
    source = open_checkpoint(folder)
    empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    expected = load_gguf_checkpoint(str(tmp_path / "tiny.gguf"), return_tensors=True, model_to_load=empty)["tensors"]
    assert expected.keys() == set(source.names())
    for name, values in expected.items():
        found = source.tensor(name, tuple(values.shape))
        assert found.tobytes() == np.ascontiguousarray(values.float().numpy()).tobytes(), name
        middle = source.rows(name, values.shape[0] // 3, values.shape[0] // 2)
        assert middle.tobytes() == found[values.shape[0] // 3 : values.shape[0] // 2].tobytes(), name


@pytest.mark.parametrize(
    "kind", [kind for kind in Kind if kind in gguf.quants._type_traits], ids=lambda kind: kind.name
)
def test_rows_of_every_type_are_what_the_library_makes_of_the_whole(kind: Kind, tmp_path: Path) -> None:
    """Random bytes: also types that only llama.cpp can write, such as Q4_K."""
    block, width = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(3).integers(0, 256, (12, 2 * width), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_tensor("t", raw, raw_dtype=kind)
    finish(writer)
    place = read_contents(tmp_path / "t.gguf").tensors["t"]
    assert place.shape == (12, 2 * block)
    with np.errstate(all="ignore"):
        whole = gguf.dequantize(raw, kind)
        assert read_rows(place, 0, 12).tobytes() == whole.tobytes()
        assert read_rows(place, 5, 8).tobytes() == whole[5:8].tobytes()


@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q4_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("row", ["SmolLM2, tied", "Qwen3, q/k norm", "Gemma 3"])
def test_a_bundle_is_that_of_the_same_weights_as_safetensors(row: str, kind: Kind, tmp_path: Path) -> None:
    _, folder = make(row, tmp_path, kind)
    load_frozen(folder).save_pretrained(tmp_path / "same")
    (tmp_path / "same" / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    found = export_bundle(folder, tmp_path / "a", model="m", exits="init", splits=[2])
    expected = export_bundle(tmp_path / "same", tmp_path / "b", model="m", exits="init", splits=[2])
    assert found.file(FILE_NAME).read_bytes() == expected.file(FILE_NAME).read_bytes()
    for graph in found.manifest.graphs:
        assert found.file(graph.file).read_bytes() == expected.file(graph.file).read_bytes()
    ids = list(range(5, 30))
    ladder = Ladder(found, Runtime.start("cpu"))
    ladder.append(ids)
    with torch.inference_mode():
        logits = load_frozen(folder)(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(ladder.logits(ladder.full), logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("known", LLAMA_3, ids=str)
def test_llama_3s_scaling_is_recognised(known: tuple[float, float, float, int], tmp_path: Path) -> None:
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, **dict(zip(names, known, strict=True))}
    model_type, differences = ROWS["Llama 2"]
    model = make_model(tmp_path / "model", model_type, differences | {"rope_parameters": rope, "head_dim": 64})
    assert config_of(read_contents(write(tmp_path / "tiny.gguf", model)))["rope_parameters"] == rope


def test_the_big_gemmas_scale_attention_by_width_over_heads(tmp_path: Path) -> None:
    model_type, differences = ROWS["Gemma 2"]
    small = {"num_hidden_layers": 46, "layer_types": None, "hidden_size": 32, "intermediate_size": 32}
    model = make_model(tmp_path / "model", model_type, differences | small)
    folder = resolve(str(write(tmp_path / "tiny.gguf", model)))
    assert architectures.read(folder).attention_scale == pytest.approx((32 / 4) ** -0.5)


def test_layouts_are_of_families_that_graphs_know() -> None:
    # A llama file with a window is a Mistral.
    assert {layout.model_type for layout in LAYOUTS.values()} | {"mistral"} <= set(FAMILIES)


@pytest.mark.parametrize(
    ("row", "change", "word"),
    [
        ("Llama 2", lambda writer: writer.add_expert_count(8), "experts"),
        ("OLMo 2", lambda writer: writer.add_sliding_window(64), "OLMo 3"),
        ("Llama 2", lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE), "rope.scaling.type"),
    ],
)
def test_models_that_would_be_read_wrongly(row: str, change: Any, word: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", *ROWS[row])

    def changed(writer: gguf.GGUFWriter) -> None:
        change(writer)
        writer.add_rope_scaling_factor(2.0)

    with pytest.raises(ModelError, match=word):
        resolve(str(write(tmp_path / "tiny.gguf", model, change=changed)))
