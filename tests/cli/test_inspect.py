"""What ``balcony-edge inspect`` says of a bundle, and the costs that it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from balcony_edge import Bundle
from balcony_edge.cli.inspect import text
from balcony_edge.measure.traffic import depth_costs
from balcony_edge.system.terminal import table
from helpers.command import cli, fails, here


def test_the_text_names_all_that_matters() -> None:
    result = cli("inspect")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    demo = Bundle.demo()
    for word in (demo.manifest.base.model, demo.manifest.base.sha256, demo.manifest.digest, "int8", "layers 12"):
        assert word in result.stdout
    for name, entry in demo.manifest.files.items():
        line = next(line for line in result.stdout.splitlines() if line.startswith(f"{name} "))
        assert f"{entry.bytes:,}" in line
    assert "estimated from weight traffic" in result.stdout
    assert f"{demo.manifest.quality[3].agreement:.3f}" in result.stdout


def test_json_is_one_document() -> None:
    result = here("inspect", str(Bundle.demo().path), "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["manifest"] == Bundle.demo().manifest.model_dump(mode="json")
    assert [row["depth"] for row in document["depths"]] == list(Bundle.demo().depths)
    assert [row["full"] for row in document["depths"]] == [False, False, False, True]
    assert document["depths"][0]["agreement"] == Bundle.demo().manifest.quality[3].agreement


def test_a_broken_bundle_is_refused(tmp_path: Path) -> None:
    shutil.copytree(Bundle.demo().path, tmp_path / "b")
    (tmp_path / "b" / "weights.bin").write_bytes(b"")
    fails(here("inspect", str(tmp_path / "b"), "--json"), "weights.bin", "truncated")
    fails(here("inspect", "nowhere"), "nowhere")


def test_an_exit_that_nobody_measured_is_unknown(tmp_path: Path) -> None:
    shutil.copytree(Bundle.demo().path, tmp_path / "b")
    path = tmp_path / "b" / "balcony.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quality": {}}))
    assert text(Bundle(tmp_path / "b")).count("unknown") == 6


def test_costs_are_shares_of_a_full_token() -> None:
    # int8 in blocks of 64 with fp32 scales: 68 bytes for 64 weights, but the 352 neurons have blocks of 32; beside them
    # a layer's two norms.
    layer = (128 * 128 * 2 + 128 * 64 * 2 + 2 * 128 * 352) * 68 // 64 + 128 * 352 * 36 // 32 + 2 * 128 * 4
    head = 128 * 2048 * 68 // 64
    costs = depth_costs(Bundle.demo().manifest.graphs)
    # A gate reads an eighth of the head.
    gate = head // 8
    assert costs[12].token_bytes == 12 * layer + head + 128 * 4
    assert costs[3].token_bytes == 4 * layer + head + gate + 128 * 4
    assert tuple(costs) == Bundle.demo().depths
    assert costs[3].exit == pytest.approx((layer + gate + 128 * 4) / costs[12].token_bytes)
    assert costs[3].token < costs[6].token < costs[9].token < costs[12].token == 1


def test_tables_are_aligned() -> None:
    assert table([["a", "bb"], ["ccc", "d"]]) == "a    bb\nccc  d"
