"""The model card: licences that are found, exits that are told, front matter that the Hub reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from balcony_edge import Bundle
from balcony_edge.bundle.card import split_card
from balcony_export.bundling.card import licence, render
from balcony_export.bundling.writer import export_bundle
from balcony_export.exits import store
from balcony_export.graphs.formats import ExportOptions
from helpers.places import DEMO_BASE, DEMO_EXITS, ROOT, MakeBundle


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {}),
        ({"README.md": "# no front matter\nlicense: mit\n"}, {}),
        ({"README.md": '---\nlicense: "mit"\ntags:\n- a\n---\n# x\n'}, {"license": "mit"}),
        (
            {"README.md": "---\nlicense: other\nlicense_name: llama3\nlicense_link: LICENSE\n---\n"},
            {"license": "other", "license_name": "llama3", "license_link": "LICENSE"},
        ),
        ({"README.md": "---\nlicense: gemma\n---\n", "LICENSE": "MIT License\n"}, {"license": "gemma"}),
        ({"LICENSE": "MIT License\n\nCopyright"}, {"license": "mit"}),
        ({"LICENSE": (ROOT / "LICENSE").read_text()}, {"license": "apache-2.0"}),
        (
            {"LICENSE.txt": "House rules"},
            {"license": "other", "license_name": "base-model-licence", "license_link": "LICENSE.txt"},
        ),
    ],
)
def test_the_licence_of_a_checkpoint(tmp_path: Path, files: dict[str, str], expected: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert licence(tmp_path) == expected


def test_an_export_writes_the_card(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(DEMO_BASE, folder)
    (folder / "README.md").unlink()
    (folder / "LICENSE").write_text("MIT License\n")
    bundle = export_bundle(
        folder, tmp_path / "b", model="owner/stories", exits=DEMO_EXITS, options=ExportOptions(precision="int8")
    )
    assert "README.md" not in bundle.manifest.files
    head, body = split_card((bundle.path / "README.md").read_text())
    fields = yaml.safe_load(head)
    assert fields["library_name"] == "balcony-edge"
    assert fields["pipeline_tag"] == "text-generation"
    assert fields["base_model"] == "owner/stories"
    assert fields["license"] == "mit"
    assert "balcony-edge" in fields["tags"]
    for split, quality in bundle.manifest.quality.items():
        assert f"| {split} | " in body
        assert f"{quality.agreement:.3f} | {quality.kl_nats:.3f}" in body
    steps = store.load(DEMO_EXITS).training["steps"]
    trained = f"a decoder layer and a norm, trained towards the frozen base's distribution (loss kl) for {steps:,} "
    for word in ("balcony-edge run", "int8", bundle.manifest.base.sha256, trained):
        assert word in body


def test_a_local_base_is_no_hub_id_and_untrained_exits_are_not_measured(tiny_bundles: MakeBundle) -> None:
    card = tiny_bundles("fp32", "bit").file("README.md").read_text()
    assert "base_model" not in yaml.safe_load(split_card(card)[0])
    assert "not measured" in card


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"width": "mlp"}, "Each exit is an MLP and a norm, trained towards the frozen base's distribution (loss kl)"),
        ({"width": "norm", "loss": "ce"}, "Each exit is a norm, trained towards the text's next token (cross-entropy)"),
    ],
)
def test_the_card_says_how_exits_were_trained(choice: dict[str, str], words: str) -> None:
    card = render(Bundle.demo().manifest, {}, {"steps": 1200, "rows": 8, "length": 64, **choice})
    assert f"{words} for 1,200 steps of 8 x 64 tokens." in card


def test_odd_values_stay_yaml() -> None:
    card = render(Bundle.demo().manifest, {"license": "other", "license_name": 'a: "b"\n---'})
    assert yaml.safe_load(split_card(card)[0])["license_name"] == 'a: "b"\n---'
