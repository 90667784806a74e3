"""Bundles that are missing, truncated, tampered with or reaching outside are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from balcony_edge import Bundle, BundleError
from helpers.places import MakeBundle


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
    assert all(graph.gate for graph in demo.manifest.segments[:-1])
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


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 2}', "\x00"])
def test_a_manifest_that_cannot_be_read(bundle: Path, text: str) -> None:
    (bundle / "balcony.json").write_text(text)
    refused(bundle, "balcony.json")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a\\b"])
def test_files_outside_the_bundle(bundle: Path, name: str) -> None:
    files = json.loads((bundle / "balcony.json").read_text())["files"]
    edit(bundle, files=files | {name: {"bytes": 1, "sha256": "0" * 64}})
    refused(bundle, "outside the bundle")


def test_a_link_out_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    shutil.move(bundle / "head.onnx", tmp_path / "head.onnx")
    (bundle / "head.onnx").symlink_to(tmp_path / "head.onnx")
    refused(bundle, "head.onnx", "outside the bundle")


def test_a_manifest_that_contradicts_itself(bundle: Path) -> None:
    content = json.loads((bundle / "balcony.json").read_text())
    edit(bundle, splits=[2, 6, 9])
    refused(bundle, "do not match")
    edit(bundle, splits=content["splits"], graphs=[g for g in content["graphs"] if g["kind"] != "head"])
    refused(bundle, "exactly one head")
    edit(bundle, graphs=content["graphs"][1:])
    refused(bundle, "do not follow one another")


def test_unknown_fields_are_refused(bundle: Path) -> None:
    edit(bundle, surprise=1)
    refused(bundle, "surprise")


def test_bundles_carry_no_machine_paths(tiny_bundles: MakeBundle, tiny_model: Path) -> None:
    bundle = tiny_bundles("fp32", "bit")
    assert str(tiny_model.parent) not in (bundle.path / "balcony.json").read_text()
    assert bundle.manifest.base.model == tiny_model.name
