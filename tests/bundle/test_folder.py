"""Bundles that are missing, truncated, tampered with or reaching outside are refused by name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from balcony_edge import Bundle, BundleError
from balcony_edge.bundle.manifest import file_entry
from balcony_edge.text.codec import TextCodec
from helpers.places import MakeBundle
from helpers.protobuf import entry, field


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the demo bundle that a test may damage."""
    target = tmp_path / "bundle"
    shutil.copytree(Bundle.demo().path, target)
    return target


def edit(bundle: Path, **changes: Any) -> None:
    """Change top-level entries of the manifest."""
    path = bundle / "balcony.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(bundle: Path, *words: str) -> None:
    with pytest.raises(BundleError) as caught:
        Bundle(bundle)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.hint


def test_the_demo_is_whole_small_and_has_exits() -> None:
    demo = Bundle.demo()
    assert len(demo.depths) >= 4
    assert demo.manifest.architecture.layers >= 12
    assert sum(path.stat().st_size for path in demo.path.iterdir()) <= 16_000_000
    assert all(graph.gate for graph in demo.manifest.exits)
    assert set(demo.manifest.quality) == set(demo.depths[:-1])


def test_a_missing_bundle(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "there is no bundle at", "nowhere")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is no bundle", "balcony.json")


@pytest.mark.parametrize("name", ["weights.bin", "head.onnx", "tokenizer.json"])
def test_a_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    refused(bundle, name)


def test_a_truncated_file(bundle: Path) -> None:
    path = bundle / "weights.bin"
    path.write_bytes(path.read_bytes()[:-100])
    refused(bundle, "weights.bin", "truncated")


def test_a_flipped_bit(bundle: Path) -> None:
    path = bundle / "weights.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(bundle, "weights.bin", "sha256")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 3}', "\x00", "[" * 100_000])
def test_a_manifest_that_cannot_be_read(bundle: Path, text: str) -> None:
    (bundle / "balcony.json").write_text(text)
    refused(bundle, "balcony.json")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a\\b", "a\0b", "a\nb"])
def test_files_outside_the_bundle(bundle: Path, name: str) -> None:
    files = json.loads((bundle / "balcony.json").read_text())["files"]
    edit(bundle, files=files | {name: {"bytes": 1, "sha256": "0" * 64}})
    refused(bundle, "outside the bundle")


def test_a_link_out_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    shutil.move(bundle / "head.onnx", tmp_path / "head.onnx")
    (bundle / "head.onnx").symlink_to(tmp_path / "head.onnx")
    refused(bundle, "head.onnx", "outside the bundle")


def test_links_in_a_circle(bundle: Path) -> None:
    (bundle / "head.onnx").unlink()
    (bundle / "head.onnx").symlink_to("head.onnx")
    refused(bundle, "head.onnx")


def test_a_file_that_is_a_folder_or_a_pipe(bundle: Path) -> None:
    (bundle / "head.onnx").unlink()
    (bundle / "head.onnx").mkdir()
    refused(bundle, "lacks its file head.onnx")
    (bundle / "head.onnx").rmdir()
    os.mkfifo(bundle / "head.onnx")
    refused(bundle, "lacks its file head.onnx")


def test_links_inside_the_bundle_are_followed(bundle: Path) -> None:
    (bundle / "head.onnx").rename(bundle / "real.onnx")
    (bundle / "head.onnx").symlink_to("real.onnx")
    assert Bundle(bundle).depths


def test_files_that_the_manifest_does_not_list_are_never_read(bundle: Path) -> None:
    """A clone's .git may lie there; a chat template that was slipped in may not run."""
    (bundle / "chat_template.jinja").write_text("{{ broken")
    opened = Bundle(bundle)
    assert TextCodec(opened).chat_template is None
    with pytest.raises(BundleError, match=r"no chat_template\.jinja in its manifest"):
        opened.file("chat_template.jinja")


def test_a_tokenizer_that_the_manifest_does_not_list(bundle: Path) -> None:
    files = json.loads((bundle / "balcony.json").read_text())["files"]
    edit(bundle, files={name: entry for name, entry in files.items() if name != "tokenizer.json"})
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        TextCodec(Bundle(bundle))


@pytest.mark.parametrize(
    ("change", "word"),
    [({"context": 0}, "context"), ({"hidden": -1}, "hidden"), ({"norm_epsilon": float("nan")}, "norm_epsilon")],
)
def test_numbers_that_no_model_has(bundle: Path, change: dict[str, float], word: str) -> None:
    edit(bundle, architecture=json.loads((bundle / "balcony.json").read_text())["architecture"] | change)
    refused(bundle, word)


# --- weights from elsewhere: the graph says where, and its author also writes the manifest ---------------------------


def external_tensor(**entries: str) -> bytes:
    """A TensorProto whose bytes lie elsewhere."""
    return b"".join(entry(key, value) for key, value in entries.items())


def replace_graph(bundle: Path, content: bytes, name: str = "head.onnx") -> None:
    """Another head, with a manifest that agrees: all that a hostile author can do."""
    (bundle / name).write_bytes(content)
    files = json.loads((bundle / "balcony.json").read_text())["files"]
    edit(bundle, files=files | {name: file_entry(bundle / name).model_dump()})


# Where a tensor may hide: an initialiser, an attribute, a subgraph's, a function's, a sparse one, a training graph's.
HIDING = {
    "initializer": (7, 5),
    "attribute": (7, 1, 5, 5),
    "attributes": (7, 1, 5, 10),
    "subgraph": (7, 1, 5, 6, 5),
    "subgraphs": (7, 1, 5, 11, 1, 5, 6, 5),
    "sparse": (7, 15, 1),
    "sparse attribute": (7, 1, 5, 22, 2),
    "function": (25, 7, 5, 5),
    "default": (25, 11, 5),
    "training": (20, 1, 5),
}


def hidden(tensor: bytes, place: str) -> bytes:
    for number in reversed(HIDING[place]):
        tensor = field(number, tensor)
    return tensor


@pytest.mark.parametrize("place", HIDING)
def test_weights_outside_are_found_wherever_they_hide(bundle: Path, place: str) -> None:
    replace_graph(bundle, hidden(external_tensor(location="weights.bin"), place))
    Bundle(bundle)
    replace_graph(bundle, hidden(external_tensor(location="../secret"), place))
    refused(bundle, "head.onnx", "../secret", "none of the bundle's files")


@pytest.mark.parametrize(
    "location",
    ["../weights.bin", "/etc/passwd", "/dev/zero", "./weights.bin", "unlisted.bin", "", "*/_ORT_MEM_ADDR_/*", "a\\b"],
)
def test_weights_that_are_none_of_the_bundles_files(bundle: Path, location: str) -> None:
    (bundle / "unlisted.bin").write_bytes(bytes(64))
    replace_graph(bundle, hidden(external_tensor(location=location), "initializer"))
    refused(bundle, "head.onnx", "none of the bundle's files")


@pytest.mark.parametrize("entries", [{"offset": "1"}, {"offset": "-4096"}, {"length": "1" * 40}, {"length": "many"}])
def test_weights_beyond_their_file(bundle: Path, entries: dict[str, str]) -> None:
    size = str((bundle / "weights.bin").stat().st_size)
    replace_graph(
        bundle, hidden(external_tensor(location="weights.bin", **({"length": size} | entries)), "initializer")
    )
    refused(bundle, "head.onnx")


@pytest.mark.parametrize(
    "content",
    [
        b"\x3a\xff",
        b"\x3a\x05abc",
        b"\xff" * 20,
        b"\x3b",
        b"\x3a\x03\x2a\x7f\x00",
        hidden(b"\x6a\x02\x0a\x09", "initializer"),
    ],
)
def test_graphs_that_are_no_protobuf(bundle: Path, content: bytes) -> None:
    replace_graph(bundle, content)
    refused(bundle, "head.onnx", "no ONNX graph")


def test_two_locations_are_one_too_many(bundle: Path) -> None:
    twice = external_tensor(location="weights.bin") + external_tensor(location="../secret")
    replace_graph(bundle, hidden(twice, "initializer"))
    refused(bundle, "head.onnx", "two external entries")
    both = field(1, b"location") + field(2, b"weights.bin") + field(2, b"../secret")
    replace_graph(bundle, hidden(field(13, both), "initializer"))
    refused(bundle, "head.onnx", "twice")


def test_a_graph_in_another_format(bundle: Path) -> None:
    """A name in .ort would be read as another format, whose weights are not looked at."""
    (bundle / "head.onnx").rename(bundle / "head.ort")
    content = json.loads((bundle / "balcony.json").read_text())
    content["files"]["head.ort"] = content["files"].pop("head.onnx")
    graphs = [graph | ({"file": "head.ort"} if graph["kind"] == "head" else {}) for graph in content["graphs"]]
    edit(bundle, files=content["files"], graphs=graphs)
    refused(bundle, "head.ort", "does not end in .onnx")


def test_a_manifest_that_contradicts_itself(bundle: Path) -> None:
    content = json.loads((bundle / "balcony.json").read_text())
    edit(bundle, splits=[2, 6, 9])
    refused(bundle, "do not match")
    edit(bundle, splits=content["splits"], graphs=[g for g in content["graphs"] if g["kind"] != "head"])
    refused(bundle, "exactly one head")
    draft = {"kind": "draft", "file": "exit_3.onnx", "start": 12, "stop": 12, "caches": 1}
    edit(bundle, graphs=[*content["graphs"], draft, draft])
    refused(bundle, "at most one draft stage")
    edit(bundle, graphs=content["graphs"], guesses=[0.5])
    refused(bundle, "none without it")
    edit(bundle, guesses=[], graphs=[*content["graphs"], draft | {"caches": 2}])
    refused(bundle, "more than it has layers")
    edit(bundle, graphs=content["graphs"][1:])
    refused(bundle, "do not follow one another")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("share", [1.0], "disagree about the number of bins"),
        ("share", [-0.1] + [0.1] * 7, "greater than or equal to 0"),
        ("drafted", [float("nan")] * 8, "finite"),
        ("judged", [[1.0]], "disagree about the number of bins"),
        ("judged", [[1.0]] * 8, "judge's bins"),
        ("following", {"6": [[1.0]] * 8}, "bins that exit 6 lacks"),
        ("following", {"5": [[1.0]] * 8}, "bins that exit 5 lacks"),
    ],
)
def test_what_was_counted_of_exits_must_fit_together(bundle: Path, name: str, value: Any, words: str) -> None:
    quality = json.loads((bundle / "balcony.json").read_text())["quality"]
    quality["3"]["bins"][name] = value
    edit(bundle, quality=quality)
    refused(bundle, words)


def test_unknown_fields_are_refused(bundle: Path) -> None:
    edit(bundle, surprise=1)
    refused(bundle, "surprise")


def test_bundles_carry_no_machine_paths(tiny_bundles: MakeBundle, tiny_model: Path) -> None:
    bundle = tiny_bundles("fp32", "bit")
    assert str(tiny_model.parent) not in (bundle.path / "balcony.json").read_text()
    assert bundle.manifest.base.model == tiny_model.name
