"""Model folders that are broken or hostile: refused by the name of the culprit, with a next step, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from safetensors.torch import save_file

from balcony_edge.errors import BalconyError, ExitsError, ModelError
from balcony_export.bundling.writer import export_bundle
from balcony_export.exits import store
from balcony_export.model.checkpoint import Checkpoint, Tensors, TensorSource, count_not_finite
from balcony_export.model.generation_config import read_generation
from balcony_export.model.model_files import INDEX, SINGLE
from helpers.effort import examples
from helpers.places import DEMO_EXITS

EMBEDDING = "model.embed_tokens.weight"
NORM = "model.norm.weight"


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    target = tmp_path / "model"
    shutil.copytree(tiny_model, target)
    return target


@pytest.fixture
def sharded(folder: Path) -> Path:
    """The tiny model in two shards: the embedding in the first, the rest in the second."""
    tensors = {name: torch.from_numpy(value) for name, value in load_file(folder / SINGLE).items()}
    (folder / SINGLE).unlink()
    save_file({EMBEDDING: tensors[EMBEDDING]}, folder / "one.safetensors")
    save_file({name: value for name, value in tensors.items() if name != EMBEDDING}, folder / "two.safetensors")
    where = {name: "one.safetensors" if name == EMBEDDING else "two.safetensors" for name in tensors}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def edit_index(folder: Path, **places: object) -> None:
    """Say of the embedding or the norm that it lies elsewhere."""
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= {{"embedding": EMBEDDING, "norm": NORM}[name]: place for name, place in places.items()}
    (folder / INDEX).write_text(json.dumps(index))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Rewrite the single file with some tensors changed."""
    tensors = {name: torch.from_numpy(value.copy()) for name, value in load_file(folder / SINGLE).items()}
    change(tensors)
    save_file(tensors, folder / SINGLE)


def refused(folder: Path, *words: str) -> BalconyError:
    """The export is refused in these words, with a next step, and writes nothing."""
    place = folder.parent / "place"
    with pytest.raises(ModelError) as caught:
        export_bundle(folder, place / "b", model="m", exits="init", splits=[2])
    for word in words:
        assert word in str(caught.value)
    assert caught.value.hint
    assert not place.exists()
    return caught.value


# --- the index ------------------------------------------------------------------------------------------------------


def test_shards_are_read_as_one_file_is(sharded: Path, tiny_model: Path, tmp_path: Path) -> None:
    made = [
        export_bundle(folder, tmp_path / str(number), model="m", exits="init", splits=[2]).manifest
        for number, folder in enumerate((sharded, tiny_model))
    ]
    assert made[0].files["weights.bin"] == made[1].files["weights.bin"]


def test_the_links_of_a_hub_snapshot_are_followed(sharded: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(sharded.iterdir())):
        shutil.move(path, blobs / str(number))
        path.symlink_to(Path("..") / "blobs" / str(number))
    assert Checkpoint(sharded).tensor(NORM).shape == (64,)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000, "\x00"]
)
def test_an_index_that_cannot_be_read(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    refused(sharded, INDEX)


@pytest.mark.parametrize(
    "place",
    ["../one.safetensors", "/etc/passwd", "a/one.safetensors", "a\\one.safetensors", "..", ".", "", "x\x00y", 7, None],
)
def test_an_index_that_leads_elsewhere(sharded: Path, place: object) -> None:
    edit_index(sharded, norm=place)
    refused(sharded, INDEX, NORM, "no file name inside the folder")


def test_an_index_that_names_an_absent_file(sharded: Path) -> None:
    (sharded / "one.safetensors").unlink()
    refused(sharded, INDEX, "one.safetensors", "not there")
    (sharded / "one.safetensors").symlink_to("nowhere")
    refused(sharded, "one.safetensors is a link to nowhere", "not there")


def test_an_index_that_names_a_pickle(sharded: Path) -> None:
    edit_index(sharded, norm="pytorch_model.bin")
    refused(sharded, "pytorch_model.bin", "safetensors")


def test_a_shard_without_a_tensor_of_the_index(sharded: Path) -> None:
    edit_index(sharded, norm="one.safetensors")
    refused(sharded, "one.safetensors", NORM, "index")


# --- files of weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_never_read(folder: Path, name: str) -> None:
    shutil.move(folder / SINGLE, folder / name)
    assert "save_pretrained" in refused(folder, name, "safetensors only").hint


def header(content: bytes, length: int | None = None) -> bytes:
    """A safetensors file of a header alone."""
    return (len(content) if length is None else length).to_bytes(8, "little") + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        header(b"{}", 1 << 62),
        header(b"{}", 1 << 30),
        header(b"\xff" * 20),
        header(b"[1, 2]"),
        header(b'{"model.norm.weight": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}}'),
        header(b'{"model.norm.weight": {"dtype": "F32", "shape": [64], "data_offsets": [256, 0]}}') + bytes(256),
        header(b'{"model.norm.weight": {"dtype": "F32", "shape": [65], "data_offsets": [0, 256]}}') + bytes(256),
        header(b'{"model.norm.weight": {"dtype": "X", "shape": [64], "data_offsets": [0, 256]}}') + bytes(256),
        header(b'{"a": {"dtype": "F32", "shape": [%d, %d], "data_offsets": [0, 256]}}' % (1 << 40, 1 << 40)),
        b"\x80\x04pickle" * 9,
    ],
)
def test_files_that_are_no_safetensors(folder: Path, content: bytes) -> None:
    (folder / SINGLE).write_bytes(content)
    refused(folder, SINGLE)


@settings(max_examples=examples(40))
@given(data=st.data())
def test_damage_is_refused_or_harmless(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Bytes cut off or changed in a small file: a ModelError or finite values, and no other error."""
    folder = tmp_path_factory.mktemp("damage")
    save_file({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}, folder / SINGLE)
    content = bytearray((folder / SINGLE).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / SINGLE).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(ModelError):
        checkpoint = Checkpoint(folder)
        assert not any(count_not_finite(checkpoint.tensor(name)) for name in checkpoint.names())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(folder: Path, value: float) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[EMBEDDING].view(-1)[[3, 100]] = value

    edit_tensors(folder, change)
    refused(folder, SINGLE, EMBEDDING, "2 of 18432")
    with pytest.raises(ModelError, match=EMBEDDING):
        Checkpoint(folder).rows(EMBEDDING, 0, 1)
    assert Checkpoint(folder).rows(EMBEDDING, 2, 9).shape == (7, 64)


def test_exits_that_are_not_finite(tmp_path: Path) -> None:
    trained = store.load(DEMO_EXITS)
    tensors = {name: value.copy() for name, value in trained.tensors.items()}
    tensors["exits.6.norm.weight"][5] = np.nan
    store.save(tmp_path, replace(trained, tensors=tensors))
    with pytest.raises(ExitsError, match=r"exits\.6\.norm\.weight"):
        store.load(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.float64, "F64"), (torch.bool, "BOOL")],
)
def test_types_that_do_not_widen(folder: Path, dtype: torch.dtype, name: str) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[NORM] = tensors[NORM].to(dtype)

    edit_tensors(folder, change)
    refused(folder, SINGLE, NORM, name)


@pytest.mark.parametrize("scheme", [{"quant_method": "fp8"}, {"quant_method": "bitsandbytes"}, {}, "fp8"])
def test_quantised_checkpoints(folder: Path, scheme: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": scheme}))
    word = str(scheme["quant_method"]) if isinstance(scheme, dict) and scheme else "quantization_config"
    assert "--precision" in refused(folder, "already quantised", word).hint


def test_a_tensor_that_is_missing(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.__delitem__(NORM) if NORM in tensors else None)
    refused(folder, NORM)


# --- what the reader promises ---------------------------------------------------------------------------------------


def test_a_shape_that_config_does_not_ask_for(folder: Path) -> None:
    sources: list[TensorSource] = [Checkpoint(folder), Tensors(load_file(folder / SINGLE))]
    for source in sources:
        source.expect(NORM, (64,))
        assert source.tensor(NORM, (64,)).shape == (64,)
        for check in (source.expect, source.tensor):
            with pytest.raises(ModelError, match=rf"{NORM} has shape \[64\].*\[65\]"):
                check(NORM, (65,))
            with pytest.raises(ModelError, match="no tensor nothing"):
                check("nothing", (1,))


def test_headers_and_rows(tmp_path: Path) -> None:
    values = torch.arange(12.0).reshape(4, 3)
    stored = {"F32": values, "BF16": values.bfloat16(), "F16": values.half()}
    save_file({name: value.contiguous() for name, value in stored.items()}, tmp_path / SINGLE)
    sources: list[TensorSource] = [Checkpoint(tmp_path), Tensors({"F32": values.numpy()})]
    assert set(Checkpoint(tmp_path).names()) == set(stored)
    for source in sources:
        for name in filter(source.__contains__, stored):
            assert source.shape(name) == (4, 3)
            np.testing.assert_array_equal(source.tensor(name), values.numpy())
            for start, stop in ((0, 4), (1, 3), (2, 2)):
                rows = source.rows(name, start, stop)
                assert rows.dtype == np.float32
                np.testing.assert_array_equal(rows, values.numpy()[start:stop])
            for start, stop in ((-1, 2), (0, 5), (3, 2)):
                with pytest.raises(ValueError, match="has no rows"):
                    source.rows(name, start, stop)


def test_no_file_stays_mapped(sharded: Path) -> None:
    """Or the pages that were touched would add up to the whole model."""
    checkpoint = Checkpoint(sharded)
    kept = [checkpoint.tensor(EMBEDDING), checkpoint.tensor(NORM), checkpoint.rows(EMBEDDING, 0, 9)]
    assert str(sharded) not in Path("/proc/self/maps").read_text()
    assert all(value.flags.writeable for value in kept)


# --- the small files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_garbled_json(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    refused(folder, name)


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_json_that_nests_too_deep(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"[" * 100_000)
    refused(folder, name)


@pytest.mark.parametrize("template", [b"\xff\xfe", b"{% break %}"])
def test_a_broken_chat_template_breaks_no_export(folder: Path, tmp_path: Path, template: bytes) -> None:
    """Who uses it, is told."""
    (folder / "chat_template.jinja").write_bytes(template)
    bundle = export_bundle(folder, tmp_path / "bundle", model="m")
    assert bundle.file("chat_template.jinja").read_bytes() == template


@pytest.mark.parametrize("value", ["</s>", -1, 1.5, True, [1, "2"], {"id": 3}])
@pytest.mark.parametrize("key", ["eos_token_id", "bos_token_id"])
def test_token_ids_that_are_none(folder: Path, key: str, value: Any) -> None:
    (folder / "generation_config.json").write_text(json.dumps({key: value}))
    refused(folder, "generation_config.json", key)


def test_generation_config_goes_before_config(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6], "bos_token_id": None}))
    generation = read_generation(folder)
    assert (generation.bos_token_id, generation.eos_token_ids, generation.add_bos) == (0, [5, 6], False)


@pytest.mark.parametrize(
    "said", ['{"base_model_name_or_path": "me/base"}', "{", "[]", '{"base_model_name_or_path": 3}', None]
)
def test_an_adapter_is_no_model(folder: Path, tmp_path: Path, said: str | None) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_model.safetensors").write_bytes(b"")
    if said is not None:
        (folder / "adapter_config.json").write_text(said)
    with pytest.raises(ModelError, match="PEFT adapter") as caught:
        export_bundle(folder, tmp_path / "bundle", model="m")
    assert ("of me/base" in caught.value.message) is ("me/base" in (said or ""))
    assert "merge_and_unload" in caught.value.hint
    assert not (tmp_path / "bundle").exists()
