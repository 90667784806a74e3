"""``verify`` reads text on both sides, and fails with the first text that becomes other ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import MANIFEST_NAME, file_entry
from balcony_edge.errors import VerifyError
from balcony_export.bundling.self_check import self_check
from balcony_export.bundling.writer import export_bundle
from balcony_export.verification.report import explain
from balcony_export.verification.text_ids import RANDOM_TEXTS, compare_texts
from balcony_export.verification.texts import TEXTS
from balcony_export.verification.verify import verify
from helpers import tokenizer_zoo
from helpers.places import MakeBundle


def changed(bundle: Bundle, out: Path, **parts: object) -> Bundle:
    """A copy of a bundle with parts of its tokenizer replaced, its digests made to fit."""
    shutil.copytree(bundle.path, out)
    path = out / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))
    manifest = json.loads((out / MANIFEST_NAME).read_text())
    manifest["files"][path.name] = file_entry(path).model_dump()
    (out / MANIFEST_NAME).write_text(json.dumps(manifest))
    return Bundle(out)


def test_equal_texts(tiny_bundles: MakeBundle, tiny_model: Path) -> None:
    row = compare_texts(tiny_bundles("fp32", "bit"), tiny_model)
    assert (row.passed, row.stage, row.note) == (True, "text", f"ids of {len(TEXTS) + RANDOM_TEXTS} texts equal")


def test_the_first_text_that_differs_is_named(tiny_bundles: MakeBundle, tiny_model: Path, tmp_path: Path) -> None:
    normalizer = {"type": "Replace", "pattern": {"String": "\u3000"}, "content": " "}
    bundle = changed(tiny_bundles("fp32", "bit"), tmp_path / "other", normalizer=normalizer)
    found = verify(bundle, tiny_model, [[1, 2]], 1)
    assert not found.passed
    assert found.first_failure is found.rows[1]
    text = next(text for text in TEXTS if "\u3000" in text)
    assert repr(text) in explain(found.rows[1])
    assert "in transformers" in explain(found.rows[1])
    with pytest.raises(VerifyError, match="text is the first stage that fails"):
        self_check(tiny_model, None, "later", lambda line: None)(bundle)


def test_what_transformers_cannot_load_is_not_compared(tiny_bundles: MakeBundle, tmp_path: Path) -> None:
    row = compare_texts(tiny_bundles("fp32", "bit"), tmp_path)
    assert row.passed
    assert row.note.startswith("not compared")


@pytest.mark.parametrize("kind", ["byte level, both ends", "Llama", "GPT 2"])
def test_an_exported_bundle_reads_as_transformers_does(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    """Also where the exporter has to rebuild the tokenizer."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    family = json.loads((model / "config.json").read_text())
    tokenizer_zoo.write(kind, model)
    (model / "config.json").write_text(json.dumps(family))
    assert compare_texts(export_bundle(model, tmp_path / "bundle", model="m"), model).passed
