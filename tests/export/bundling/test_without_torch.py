"""Every known family is exported without torch, transformers and optimum: the same bytes as with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balcony_edge.bundle.manifest import Manifest, read_manifest
from balcony_edge.errors import VerifyError
from balcony_export.bundling import against_uncut, self_check, uncut
from balcony_export.bundling.writer import export_bundle
from balcony_export.graphs.formats import ExportOptions
from balcony_export.model.download import resolve
from balcony_export.model.families import FAMILIES
from helpers.command import fails, here
from helpers.families import ROWS, make_model
from helpers.gguf_files import write
from helpers.places import ROOT

DEMO = ROOT / "export" / "demo"
# Each family as its first row makes it, in a precision of its own.
FIRST_ROWS = {model_type: row for row, (model_type, _) in reversed(ROWS.items())}
PRECISIONS = {family: ("fp32", "int8", "int4")[index % 3] for index, family in enumerate(FAMILIES)}
CHILD = """
import importlib.abc, json, resource, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("accelerate", "datasets", "onnxscript", "optimum", "torch", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from balcony_edge.cli.app import main

codes = []
for order in json.load(sys.stdin):
    sys.argv = ["balcony-edge", *order]
    try:
        main()
        codes.append(0)
    except SystemExit as ended:
        codes.append(ended.code or 0)
print(json.dumps(codes))
"""


def without_torch(orders: list[list[str]]) -> tuple[list[int], str]:
    """Run commands in one process that has no torch: their exit codes, and what they said."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", CHILD]
    result = subprocess.run(
        command, input=json.dumps(orders), capture_output=True, text=True, timeout=500, env=environment, check=True
    )
    return json.loads(result.stdout.splitlines()[-1]), result.stderr


def same(found: Path, expected: Path) -> None:
    one, other = read_manifest(found), read_manifest(expected)
    ignored = {"README.md"}  # the card has the base's name
    assert digests(one, ignored) == digests(other, ignored)
    assert one.model_dump(exclude={"files", "base"}) == other.model_dump(exclude={"files", "base"})
    assert one.base.sha256 == other.base.sha256


def digests(manifest: Manifest, ignored: set[str]) -> dict[str, Any]:
    return {name: entry for name, entry in manifest.files.items() if name not in ignored}


def test_every_family_is_exported_without_torch(tmp_path: Path) -> None:
    orders, expected = [], []
    for family, row in FIRST_ROWS.items():
        place = tmp_path / family
        model = make_model(place / "model", *ROWS[row])
        if family == "llama":
            write(tmp_path / "model.gguf", model)
        chosen = PRECISIONS[family]
        options = ExportOptions(precision=chosen, block_size=None if chosen == "fp32" else 16)
        export_bundle(place / "model", place / "with", model="m", splits=[3], options=options)
        order = ["export", str(place / "model"), "--splits", "3", "--precision", chosen]
        orders.append([*order, *(["--block-size", "16"] if options.block_size else []), "-o", str(place / "bundle")])
        expected.append((place / "bundle", place / "with"))
    exits = ["--exits", str(DEMO / "exits"), "--precision", "int8"]
    orders.append(["export", str(DEMO / "base"), *exits, "-o", str(tmp_path / "demo")])
    orders.append(["export", str(tmp_path / "model.gguf"), "-o", str(tmp_path / "gguf")])
    orders.append(["verify", str(tmp_path / "demo"), str(DEMO / "base")])
    orders.append(["export", str(DEMO / "base"), "--through-torch", "-o", str(tmp_path / "none")])
    codes, said = without_torch(orders)
    assert codes == [0] * (len(orders) - 2) + [1, 1], said
    for found, other in expected:
        same(found, other)
    options = ExportOptions(precision="int8")
    export_bundle(DEMO / "base", tmp_path / "demo-with", model="m", exits=DEMO / "exits", options=options)
    same(tmp_path / "demo", tmp_path / "demo-with")
    assert said.count("full depth against the uncut graph on") == len(orders) - 2
    assert f"balcony-edge verify {tmp_path / 'demo'} {DEMO / 'base'} --exits {DEMO / 'exits'}" in said
    assert said.count("lacks packages: accelerate, optimum, torch, transformers\n") == 2
    assert said.count("→ run pip install 'balcony-edge[train]'") == 2


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "has_train", lambda: False)


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize("off", [0.01, np.nan])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_bundle_that_is_not_its_uncut_graph_is_removed(
    off: float, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = uncut.Uncut.append
    noise = np.random.default_rng(3).normal(size=2048).astype(np.float32) * 100
    monkeypatch.setattr(uncut.Uncut, "append", lambda self, ids: append(self, ids) + np.float32(off) * noise)
    command = ["export", str(DEMO / "base"), "--precision", precision, "-o", str(tmp_path / "b")]
    fails(here(*command), "the exported bundle is broken, and was removed", "uncut graph")
    assert list(tmp_path.iterdir()) == []
    assert here(*command, "--no-verify").returncode == 0


@pytest.mark.usefixtures("no_torch")
def test_an_exit_that_gives_no_numbers_is_found(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = export_bundle(tiny_model, tmp_path / "b", model="m", exits="init")
    assert against_uncut.compare_with_uncut(bundle, [3, 4, 5], 4).failure is None
    logits = against_uncut.Ladder.logits
    full = bundle.manifest.architecture.layers

    def broken(self: Any, depth: int, *where: int) -> Any:
        found = logits(self, depth, *where)
        return found if depth == full else found * np.nan

    monkeypatch.setattr(against_uncut.Ladder, "logits", broken)
    with pytest.raises(VerifyError, match="not finite"):
        self_check.self_check(tiny_model, None, "later", lambda line: None)(bundle)


@pytest.mark.usefixtures("no_torch")
def test_too_little_memory_is_said(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "available_bytes", lambda: 1000)
    said: list[str] = []
    bundle = export_bundle(tiny_model, tmp_path / "b", model="m")
    self_check.self_check(tiny_model, None, "balcony-edge verify b m", said.append)(bundle)
    assert "graphs not run: they need" in said[0]
    assert said[0].endswith("pip install 'balcony-edge[train]', then balcony-edge verify b m")


def test_a_thin_bundle_is_completed_without_torch(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", *ROWS["SmolLM2, tied"])
    file = write(tmp_path / "tiny.gguf", model)
    options = ExportOptions(precision="int4")
    whole = export_bundle(resolve(str(file)), tmp_path / "whole", model=str(file), exits="init", options=options)
    thin, out = tmp_path / "thin", tmp_path / "out"
    codes, said = without_torch(
        [["thin", str(whole.path), "-o", str(thin)], ["pull", str(thin), "--base", str(file), "-o", str(out)]]
    )
    assert codes == [0, 0], said
    # Also the card.
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.path.iterdir()
    }
