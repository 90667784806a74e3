"""GGUF files from disk and Hub: pieces, names, licences and digests; and files that are broken on purpose."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
import typer
from typer.testing import CliRunner

from balcony_edge.bundle.card import split_card
from balcony_edge.bundle.manifest import CARD_NAME
from balcony_edge.errors import ExitsError, ModelError
from balcony_export.bundling.writer import export_bundle
from balcony_export.cli.export import export
from balcony_export.cli.train import train
from balcony_export.cli.verify import verify as verify_verb
from balcony_export.exits import store
from balcony_export.exits.store import base_digest
from balcony_export.model.download import base_name, resolve
from balcony_export.model.gguf.header import read_contents
from balcony_export.model.tensor_source import open_checkpoint
from balcony_export.verification.verify import verify
from helpers.families import ROWS, make_model
from helpers.gguf_files import Kind, letters, write
from helpers.places import DEMO_EXITS
from helpers.stub_hub import TOKEN, stub_hub

ROW = ROWS["SmolLM2, tied"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_model(tmp_path_factory.mktemp("tiny") / "model", *ROW)


@pytest.fixture
def file(model: Any, tmp_path: Path) -> Path:
    return write(tmp_path / "tiny.Q8_0.gguf", model, Kind.Q8_0)


def test_a_file_becomes_a_bundle_that_is_its_model(file: Path, tmp_path: Path) -> None:
    folder = resolve(str(file))
    bundle = export_bundle(folder, tmp_path / "b", model=str(file), exits="init", splits=[3])
    manifest = bundle.manifest
    assert manifest.base.model == "Tiny Test (tiny.Q8_0.gguf)"
    assert manifest.base.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert manifest.generation.bos_token_id == 1
    assert manifest.generation.eos_token_ids == [2]
    assert manifest.generation.add_bos
    head, card = split_card((bundle.path / CARD_NAME).read_text())
    assert 'license: "apache-2.0"' in head
    assert "Tiny Test" in card
    found = verify(bundle, folder, decode=4)
    assert found.first_failure is None, found.table()


def test_the_digest_is_the_files_own(file: Path, tmp_path: Path) -> None:
    same = tmp_path / "other name.gguf"
    same.write_bytes(file.read_bytes())
    assert base_digest(resolve(str(same))) == base_digest(resolve(str(file)))


def test_a_start_token_that_the_file_does_not_want(model: Any, tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0]["tokenizer.ggml.add_bos_token"].value = False

    folder = resolve(str(write(tmp_path / "tiny.gguf", model, change=change)))
    assert not export_bundle(folder, tmp_path / "b", model="m").manifest.generation.add_bos


def test_pieces_are_one_model(model: Any, tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gguf", model)
    write(tmp_path / "tiny.gguf", model, pieces=20)
    pieces = sorted(tmp_path.glob("tiny-*.gguf"))
    assert len(pieces) > 2
    one, several = (open_checkpoint(resolve(str(path))) for path in (whole, pieces[1]))
    assert set(one.names()) == set(several.names())
    for name in one.names():
        assert one.tensor(name).tobytes() == several.tensor(name).tobytes()
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in pieces)).hexdigest()
    assert base_digest(resolve(str(pieces[0]))) == digest
    pieces[-1].unlink()
    with pytest.raises(ModelError, match=pieces[-1].name):
        read_contents(pieces[0])
    pieces[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(ModelError, match="names"):
        read_contents(tmp_path / "renamed.gguf")


def test_a_folder_with_one_file_is_that_model(file: Path, model: Any) -> None:
    assert base_name(str(file.parent), resolve(str(file.parent))) == "Tiny Test (tiny.Q8_0.gguf)"
    write(file.with_name("other.gguf"), model)
    with pytest.raises(ModelError, match="name one"):
        resolve(str(file.parent))


def test_the_verbs_take_a_file(file: Path, tmp_path: Path) -> None:
    """Train exits on it, export it with them, and verify what came out."""
    text = tmp_path / "text.txt"
    text.write_text("<|endoftext|>\n".join("thequickbrownfoxjumpsoverthelazydog\n" for _ in range(60)))
    app = typer.Typer(pretty_exceptions_enable=False)
    for verb in (train, export, verify_verb):
        app.command()(verb)
    exits, bundle = str(tmp_path / "exits"), str(tmp_path / "b")
    small = ["--splits", "2", "--max-steps", "2", "--rows", "2", "--length", "16", "--device", "cpu"]
    for arguments in (
        ["train", str(file), "--data", str(text), "-o", exits, *small],
        ["export", str(file), "--exits", exits, "-o", bundle],
        ["verify", bundle, str(file), "--exits", exits, "--tokens", "4"],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    assert store.load(Path(exits)).base_model == "Tiny Test (tiny.Q8_0.gguf)"
    assert "FAIL" not in result.output


# --- the Hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A stand-in for the Hub that this process's client talks to."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with stub_hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


def test_one_file_of_a_repository(hub: Any, file: Path) -> None:
    card = b"---\nlicense: mit\n---\n"
    hub.commits["owner/name"] = [{"q/tiny.Q8_0.gguf": file.read_bytes(), "other.gguf": b"x", "README.md": card}]
    name = "owner/name:q/tiny.Q8_0.gguf"
    folder = resolve(name)
    assert base_digest(folder) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert base_name(name, folder) == name
    with pytest.raises(ModelError, match="has no file missing"):
        resolve("owner/name:missing.gguf")
    with pytest.raises(ModelError, match="no such repository"):
        resolve("owner/none:tiny.gguf")


# --- broken on purpose ------------------------------------------------------------------------------------------------


def _header(tensors: int, entries: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + rest


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "ends inside"),
    "another format": (b"PK\x03\x04" + bytes(40), "does not begin with GGUF"),
    "old": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "many tensors": (_header(1 << 60, 0), "tensors, more than fit"),
    "many entries": (_header(0, 1 << 60), "metadata entries, more than fit"),
    "a long key": (_header(0, 1, struct.pack("<Q", 1 << 60) + bytes(40)), "ends inside"),
    "a long list": (_header(0, 1, _string(b"k") + struct.pack("<IIQ", 9, 8, 1 << 60)), "strings in a list, more than"),
    "long numbers": (_header(0, 1, _string(b"k") + struct.pack("<IIQ", 9, 6, 1 << 61)), "numbers in a list, more than"),
    "lists of lists": (_header(0, 1, _string(b"k") + struct.pack("<IIQ", 9, 9, 1)), "which is not read"),
    "a strange type": (_header(0, 1, _string(b"k") + struct.pack("<IQ", 77, 1)), "unknown type 77"),
    "no UTF-8": (_header(0, 1, _string(b"\xff\xfe") + struct.pack("<IQ", 4, 1)), "no UTF-8"),
    "nothing inside": (_header(0, 0), "says no architecture"),
    "dimensions": (_header(1, 0, _string(b"t") + struct.pack("<IQQQ", 900, 1, 1, 1)), "900 dimensions"),
    "a strange weight": (_header(1, 0, _string(b"t") + struct.pack("<IQIQ", 1, 32, 99, 0)), "type 99"),
    "beyond the end": (_header(1, 0, _string(b"t") + struct.pack("<IQIQ", 1, 1 << 62, 0, 0)), "would end at byte"),
    "half a block": (_header(1, 0, _string(b"t") + struct.pack("<IQIQ", 1, 33, 8, 0)), "blocks of 32"),
    "an empty tensor": (_header(1, 0, _string(b"t") + struct.pack("<IQIQ", 1, 0, 0, 0)), "blocks of 1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers(name: str, tmp_path: Path) -> None:
    content, word = HOSTILE[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=word) as raised:
        resolve(str(path))
    assert "bad.gguf" in raised.value.message
    assert raised.value.hint


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
def test_files_that_were_cut_off(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match="no whole GGUF file"):
        resolve(str(file))


def _without(key: str) -> Callable[[gguf.GGUFWriter], None]:
    return lambda writer: writer.kv_data[0].pop(key) and None


def _setting(key: str, value: Any) -> Callable[[gguf.GGUFWriter], None]:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0][key].value = value

    return change


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_setting("general.architecture", "rwkv7"), "'rwkv7', which cannot be read"),
        (_without("llama.embedding_length"), "lacks llama.embedding_length"),
        (_without("llama.attention.layer_norm_rms_epsilon"), "lacks llama.attention.layer_norm_rms_epsilon"),
        (_setting("llama.attention.head_count", 0), "says 0 for llama.attention.head_count"),
        (_setting("llama.block_count", 1), "does not use"),
        (_setting("llama.block_count", 7), "has no tensor for model.layers.6"),
        (_setting("llama.embedding_length", 128), "asks for"),
        (_setting("tokenizer.ggml.model", "rwkv"), "tokenizer of the kind 'rwkv'"),
        (_setting("tokenizer.ggml.pre", "klingon"), "in the way 'klingon'"),
        (_without("tokenizer.ggml.tokens"), "tokenizer of the kind"),
        (_without("tokenizer.ggml.merges"), "merges of all"),
        (_setting("tokenizer.ggml.merges", ["a"]), "not of two tokens"),
        (_setting("tokenizer.ggml.merges", ["a %"]), "do not fit"),
        (_setting("tokenizer.ggml.bos_token_id", 4000), "bos_token_id is 4000"),
        (_setting("tokenizer.ggml.tokens", ["a"] * 98), "types, scores or merges"),
    ],
)
def test_metadata_that_is_missing_or_wrong(change: Any, word: str, model: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.gguf", model, change=change)
    with pytest.raises(ModelError, match=word) as raised:
        export_bundle(resolve(str(path)), tmp_path / "b", model="m")
    assert raised.value.hint
    assert not (tmp_path / "b").exists()


def test_more_tokens_than_embeddings(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="embeddings of only 97"):
        resolve(str(write(tmp_path / "bad.gguf", model, tokens=letters(120))))


def test_weights_that_are_no_numbers(model: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.gguf", model)
    content = bytearray(path.read_bytes())
    place = read_contents(path).tensors["blk.2.ffn_up.weight"]
    content[place.offset : place.offset + 4] = struct.pack("<f", float("nan"))
    path.write_bytes(bytes(content))
    with pytest.raises(ModelError, match=r"blk\.2\.ffn_up\.weight has 1 of"):
        export_bundle(resolve(str(path)), tmp_path / "b", model="m")


def test_exits_of_another_file_are_refused(file: Path) -> None:
    with pytest.raises(ExitsError, match="other weights"):
        store.load(DEMO_EXITS).check_base(resolve(str(file)))
