"""The catalogue of models: what its table may say, and names that it does not know."""

from __future__ import annotations

from pathlib import Path

import pytest

from balcony_edge.bundle import catalogue
from balcony_edge.errors import ModelError

GOOD = f"""
[some-model]
title = "Some model"
licence = "MIT"
home = "https://example.org"
file = "some.gguf"
bytes = 12
sha256 = "{"0a" * 32}"
[some-model.package]
requirement = "some-model==1.0"
member = "some_model/some.gguf"
bytes = 9
"""


def test_every_model_names_source_licence_and_digest() -> None:
    for name, model in catalogue.models().items():
        assert model.name == name
        assert model.package or model.hub
        assert model.licence in ("Apache-2.0", "MIT")
    assert "smollm2-135m" in catalogue.models()


def test_a_table_is_read() -> None:
    model = catalogue.parse(GOOD)["some-model"]
    assert model.package is not None
    assert (model.file, model.package.requirement, model.hub) == ("some.gguf", "some-model==1.0", None)
    assert model.exits is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bytes = 12", "bytes = 0"),
        ("bytes = 12", 'bytes = "12"'),
        ("bytes = 12", "bytes = 12\nurl = 3"),
        ('file = "some.gguf"', 'file = "../some.gguf"'),
        ("0a", "0x"),
        ('"some-model==1.0"', '"some-model"'),
        ('"some-model==1.0"', '"--index-url=x some==1.0"'),
        ("[some-model]", "[Some_Model]"),
        ("[some-model]", "[some-model"),
        ("[some-model]", "top = 1\n[some-model]"),
    ],
)
def test_a_malformed_table_is_refused(old: str, new: str) -> None:
    with pytest.raises(ModelError, match="catalogue"):
        catalogue.parse(GOOD.replace(old, new))


def test_what_lies_on_this_machine_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert catalogue.find("smollm2-135m") is not None
    (tmp_path / "smollm2-135m").mkdir()
    assert catalogue.find("smollm2-135m") is None


@pytest.mark.parametrize("typed", ["smollm2", "SmolLM2-135M", "smollm-135m", "smolm2_135m"])
def test_a_name_that_is_nearly_right_gets_the_right_one(typed: str) -> None:
    assert "smollm2-135m" in catalogue.suggestion(typed)


def test_a_name_that_resembles_none_gets_the_list() -> None:
    assert "balcony-edge models" in catalogue.suggestion("qqqq")
