"""--precision keep: what a bundle holds is what the checkpoint holds, bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from balcony_edge.bundle.folder import Bundle
from balcony_edge.cli.app import add_plugins
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import ModelError
from balcony_edge.measure.traffic import bits_per_weight
from balcony_export.bundling.dry_run import describe
from balcony_export.bundling.kept_check import compare
from balcony_export.bundling.writer import export_bundle, plan_export
from balcony_export.graphs import builder
from balcony_export.graphs.formats import ExportOptions
from balcony_export.graphs.weights import FILE_NAME
from balcony_export.model.download import resolve
from balcony_export.model.gguf.numbers import FORMS, unpack
from balcony_export.model.transformers_model import load_frozen
from helpers.exact import exact_ladder
from helpers.families import ROWS, make_model
from helpers.gguf_files import Kind, random_rows, write
from helpers.packed_checkpoints import write_packed

KEEP = ExportOptions(precision="keep")
# Blocks of the K types have 256 inputs.
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "head_dim": 64}
IDS = [5, 9, 2, 77, 31, 8, 8, 60, 4, 13, 1, 90]


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A Llama of 2 layers with rows as wide as the K types need, tied."""
    folder = tmp_path_factory.mktemp("wide") / "model"
    return make_model(folder, "llama", WIDE | {"tie_word_embeddings": True}), folder


def logits(bundle: Bundle) -> np.ndarray:
    ladder = Ladder(bundle, Runtime.start("cpu"))
    ladder.append(IDS)
    return np.array(ladder.logits(ladder.full))


def expected_logits(folder: Path) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(load_frozen(folder)(torch.tensor([IDS])).logits[0])


@given(kind=st.sampled_from(sorted(FORMS)), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_numbers_of_a_type_are_those_of_its_own_library(kind: str, seed: int) -> None:
    raw = random_rows(kind, 3, 512, seed)
    found = unpack(kind, raw)
    assert found.values().tobytes() == gguf.dequantize(raw, Kind[kind]).astype(np.float32).tobytes()
    assert found.levels.max() < 1 << found.form.bits
    assert found.scales.shape == (3, 512 // found.form.block)
    if found.form.half:
        assert np.array_equal(found.scales, found.scales.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("kind", sorted(FORMS))
def test_a_file_of_one_type_is_kept(
    kind: str, wide: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights bit for bit; and in fp32 arithmetic, the bundle computes what transformers does with them."""
    monkeypatch.setattr(builder, "ACCURACY_LEVEL", 1)
    folder = resolve(str(write(tmp_path / "tiny.gguf", wide[0], Kind[kind])))
    bundle = export_bundle(folder, tmp_path / "b", model="m", options=KEEP, splits=[1])
    assert bundle.manifest.formats.kept == (kind,)
    assert bundle.manifest.exactness == "bit"
    difference = compare(bundle, folder)
    assert (difference.matrices, difference.unequal, difference.largest) == (11, 0, 0.0)
    expected = expected_logits(folder)
    np.testing.assert_allclose(logits(bundle), expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))


def mixed(name: str) -> Kind:
    """As in a K_M file: another type for some projections, in one stack too."""
    kinds = {"q_proj": Kind.Q4_K, "k_proj": Kind.Q4_K, "v_proj": Kind.Q6_K, "o_proj": Kind.Q5_0}
    kinds |= {"gate_proj": Kind.Q4_0, "up_proj": Kind.F16, "down_proj": Kind.Q8_0, "embed_tokens": Kind.Q6_K}
    return kinds[name.split(".")[-2]]


def test_a_file_of_many_types_is_kept(wide: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "ACCURACY_LEVEL", 1)
    folder = resolve(str(write(tmp_path / "tiny.gguf", wide[0], mixed)))
    bundle = export_bundle(folder, tmp_path / "b", model="m", options=KEEP, splits=[1], exits="init")
    formats = bundle.manifest.formats
    assert set(formats.kept) == {"Q4_K", "Q6_K", "Q5_0", "Q4_0", "F16", "Q8_0"}
    assert (formats.base, formats.exits, formats.head) == ("keep", "int8", "keep")
    assert compare(bundle, folder).unequal == 0
    expected = expected_logits(folder)
    np.testing.assert_allclose(logits(bundle), expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))
    again = export_bundle(folder, tmp_path / "again", model="m", options=KEEP, splits=[1], exits="init")
    assert again.file(FILE_NAME).read_bytes() == bundle.file(FILE_NAME).read_bytes()


SOME = ("Phi-3, window", "Gemma 3", "Granite 3")


@pytest.mark.parametrize(
    "row", [pytest.param(name, marks=() if name in SOME else pytest.mark.long) for name in ROWS if "some" not in name]
)
def test_every_family_is_kept(row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed and permuted projections, biases, windows, scaled embeddings: types with and without a minimum."""
    monkeypatch.setattr(builder, "ACCURACY_LEVEL", 1)
    model_type, differences = ROWS[row]
    model = make_model(tmp_path / "model", model_type, differences)

    def kind(name: str) -> Kind:
        return Kind.Q4_1 if any(part in name for part in ("k_proj", "qkv", "up_proj", "embed")) else Kind.Q4_0

    try:
        folder = resolve(str(write(tmp_path / "tiny.gguf", model, kind)))
    except gguf.quants.QuantError:
        pytest.skip("rows that are not made of whole blocks")
    bundle = export_bundle(folder, tmp_path / "b", model="m", options=KEEP, splits=[2])
    assert compare(bundle, folder).unequal == 0
    expected = expected_logits(folder)
    np.testing.assert_allclose(logits(bundle), expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))


def test_one_bit_of_one_weight_is_found(wide: tuple[Any, Path], tmp_path: Path) -> None:
    folder = resolve(str(write(tmp_path / "tiny.gguf", wide[0], Kind.Q4_1)))
    bundle = export_bundle(folder, tmp_path / "b", model="m", options=KEEP, splits=[1])
    with bundle.file(FILE_NAME).open("r+b") as stream:
        stream.seek(1000)  # in the embedding
        (byte,) = stream.read(1)
        stream.seek(1000)
        stream.write(bytes([byte ^ 1]))
    difference = compare(bundle, folder)
    assert difference.unequal == 1
    assert difference.largest > 0


@pytest.mark.parametrize(("kind", "bits"), [("Q4_0", 4.5), ("Q8_0", 8.5)])
def test_scales_take_two_bytes_as_in_the_file(kind: str, bits: float, wide: tuple[Any, Path], tmp_path: Path) -> None:
    folder = resolve(str(write(tmp_path / "tiny.gguf", wide[0], Kind[kind])))
    manifest = export_bundle(folder, tmp_path / "b", model="m", options=KEEP, splits=[1]).manifest
    # Norms and rotary tables take a little too.
    assert bits <= bits_per_weight(manifest.graphs, manifest.architecture) < bits + 0.3


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q6_K", "Q8_0"])
def test_kept_bundles_are_bit_exact(kind: str, wide: tuple[Any, Path], tmp_path: Path) -> None:
    """The offsets of blocks with a minimum too: a position alone gets the bits that it gets among others."""
    folder = resolve(str(write(tmp_path / "tiny.gguf", wide[0], Kind[kind])))
    ladder = exact_ladder(export_bundle(folder, tmp_path / "b", model="m", options=KEEP, splits=[1]))
    ladder.append(IDS)
    together = np.array(ladder.logits(ladder.full))
    ladder.rewind(0)
    for position, token in enumerate(IDS):
        ladder.append([token])
        assert ladder.next_logits(ladder.full).tobytes() == together[position].tobytes()


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("awq", {}),
        ("awq", {"group": 64, "version": "GEMM"}),
        ("gptq", {"symmetric": True}),
        ("gptq", {"checkpoint_format": "gptq_v2"}),
        ("gptq", {"bits": 8, "group": 64}),
        ("gptq", {"group": -1, "symmetric": True}),
        ("gptq", {"act_order": True}),
        ("gptq", {"act_order": True, "bits": 8, "symmetric": True, "checkpoint_format": "gptq_v2"}),
    ],
    ids=str,
)
def test_a_packed_checkpoint_is_kept(
    method: str, said: dict[str, Any], wide: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "ACCURACY_LEVEL", 1)
    folder = tmp_path / "packed"
    meant = write_packed(wide[1], folder, method, **said)
    plan = plan_export(folder, options=KEEP, splits=[1])
    for name, weight in meant.items():
        assert plan.parts.base.tensor(name, weight.shape).tobytes() == weight.tobytes(), name
        assert plan.parts.base.rows(name, 3, 21).tobytes() == weight[3:21].tobytes(), name
    bundle = export_bundle(folder, tmp_path / "b", model="m", options=KEEP, splits=[1])
    assert compare(bundle, folder).unequal == 0
    expected = expected_logits(folder)
    np.testing.assert_allclose(logits(bundle), expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))


def test_groups_are_cut_where_exactness_wants_small_blocks(wide: tuple[Any, Path], tmp_path: Path) -> None:
    write_packed(wide[1], tmp_path / "packed", "gptq", group=128)
    assert plan_export(tmp_path / "packed", options=KEEP).exactness == "float"
    options = ExportOptions(precision="keep", exactness="bit")
    bundle = export_bundle(tmp_path / "packed", tmp_path / "b", model="m", options=options, splits=[1])
    assert compare(bundle, tmp_path / "packed").unequal == 0
    ladder = exact_ladder(bundle)
    ladder.append(IDS)
    together = np.array(ladder.logits(ladder.full))
    ladder.rewind(0)
    ladder.append(IDS[:1])
    assert ladder.next_logits(ladder.full).tobytes() == together[0].tobytes()


def test_a_bias_of_zeros_is_no_other_model(wide: tuple[Any, Path], tmp_path: Path) -> None:
    """Some quantisers give one to every projection; another bias would be lost."""
    write_packed(wide[1], tmp_path / "packed", "gptq")
    path = tmp_path / "packed" / "model.safetensors"
    tensors = load_file(path) | {"model.layers.0.mlp.down_proj.bias": torch.zeros(256)}
    save_file(tensors, path)
    plan_export(tmp_path / "packed", options=KEEP)
    tensors["model.layers.0.mlp.down_proj.bias"][7] = 1
    save_file(tensors, path)
    with pytest.raises(ModelError, match="does not use"):
        plan_export(tmp_path / "packed", options=KEEP)


def test_a_second_rounding_is_said(wide: tuple[Any, Path], tmp_path: Path) -> None:
    folder = resolve(str(write(tmp_path / "tiny.gguf", wide[0], Kind.Q4_0)))
    rounded = plan_export(folder, options=ExportOptions(precision="int8"))
    assert rounded.loss is not None
    assert "int8 rounds Q4_0 a second time" in rounded.loss
    assert rounded.loss in describe(rounded)
    for options in (KEEP, ExportOptions()):
        assert plan_export(folder, options=options).loss is None
    assert "base kept (Q4_0)" in describe(plan_export(folder, options=KEEP))
    assert plan_export(wide[1], options=ExportOptions(precision="int8")).loss is None


def test_kept_weights_are_a_row_of_verify(wide: tuple[Any, Path], tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.gguf", wide[0], Kind.Q8_0)
    app = typer.Typer(pretty_exceptions_enable=False)
    add_plugins(app)
    found = CliRunner().invoke(app, ["export", str(path), "--precision", "keep", "-o", str(tmp_path / "b")])
    assert found.exit_code == 0, found.output
    found = CliRunner().invoke(app, ["verify", str(tmp_path / "b"), str(path)])
    assert found.exit_code == 0, found.output
    assert "as kept" in found.output


def test_types_that_cannot_be_kept_are_refused(wide: tuple[Any, Path], tmp_path: Path) -> None:
    folder = resolve(str(write(tmp_path / "t.gguf", wide[0], lambda name: Kind.TQ1_0 if "down" in name else Kind.Q4_0)))
    with pytest.raises(
        ModelError, match=r"blk.0.ffn_down.weight is held as TQ1_0, whose numbers cannot be kept"
    ) as found:
        plan_export(folder, options=KEEP)
    assert "--precision int8" in found.value.hint
    assert plan_export(folder, options=ExportOptions(precision="int8")).loss is not None


@pytest.mark.parametrize(
    ("kind", "kept"), [("Q8_0", True), ("Q6_K", False), ("Q4_1", False), ("Q5_0", True), ("F32", False), ("F16", True)]
)
def test_on_cuda_scales_are_fp16(kind: str, kept: bool, wide: tuple[Any, Path], tmp_path: Path) -> None:
    folder = resolve(str(write(tmp_path / "t.gguf", wide[0], Kind[kind])))
    options = ExportOptions("cuda", "keep")
    if kept:
        bundle = export_bundle(folder, tmp_path / "b", model="m", options=options, splits=[1])
        assert compare(bundle, folder).unequal == 0
    else:
        with pytest.raises(ModelError, match=f"holds weights as {kind.replace('F32', 'FP32')}, which fp16"):
            plan_export(folder, options=options)


def test_exits_are_never_kept() -> None:
    with pytest.raises(ModelError, match="nothing of them can be kept"):
        ExportOptions(precision="keep", exits="keep").formats()


@pytest.mark.parametrize(
    ("method", "said", "message"),
    [
        ("gptq", {"bits": 2}, "GPTQ with 2 bits"),
        ("awq", {"version": "gemv"}, "in the layout 'gemv'"),
        ("gptq", {"checkpoint_format": "marlin"}, "in the layout 'marlin'"),
        ("gptq", {"group": 0}, "groups of 0"),
        ("fp8", {}, "already quantised"),
    ],
)
def test_schemes_that_are_not_read_are_refused(
    method: str, said: dict[str, Any], message: str, wide: tuple[Any, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "packed"
    write_packed(wide[1], folder, "awq")
    config = json.loads((folder / "config.json").read_text())
    scheme = {"quant_method": method, "bits": 4, "group_size": said.pop("group", 32), **said}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": scheme}))
    with pytest.raises(ModelError, match=message):
        plan_export(folder, options=KEEP)


def test_a_scheme_without_packed_weights_is_refused(wide: tuple[Any, Path], tmp_path: Path) -> None:
    folder = tmp_path / "floats"
    shutil.copytree(wide[1], folder)
    config = json.loads((folder / "config.json").read_text())
    scheme = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": scheme}))
    with pytest.raises(ModelError, match="no tensor is packed as gptq does"):
        plan_export(folder, options=KEEP)


def test_broken_numbers_are_refused(wide: tuple[Any, Path], tmp_path: Path) -> None:
    """A config that says symmetric of other zero points; zero points of two meanings; inputs without groups."""

    def changed(name: str, part: str, value: int, **said: Any) -> Path:
        folder = tmp_path / name
        write_packed(wide[1], folder, "gptq", **said)
        tensors = load_file(folder / "model.safetensors")
        tensors[f"model.layers.1.mlp.down_proj.{part}"][0] = value
        save_file(tensors, folder / "model.safetensors")
        return folder

    cases = [
        (changed("a", "qzeros", 0x55555555, symmetric=True), "says that it is symmetric"),
        (changed("b", "qzeros", 0x5555555F), "whether it means 16 or 0"),
        (changed("c", "g_idx", 3), "does not put 32 inputs into each group"),
    ]
    for folder, message in cases:
        with pytest.raises(ModelError, match=message):
            export_bundle(folder, tmp_path / "out", model="m", options=KEEP, splits=[1])
        assert not (tmp_path / "out").exists()
