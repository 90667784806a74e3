"""Tokenizers that are broken or hostile: refused in one line, and never a panic of the library's."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from balcony_edge import Bundle, BundleError
from balcony_edge.text.tokenizer import BundleTokenizer


def edited(tmp_path: Path, **parts: Any) -> Path:
    """The demo's tokenizer with parts replaced."""
    content = json.loads(Bundle.demo().file("tokenizer.json").read_text())
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**content, **parts}))
    return path


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}},
        {"decoder": {"type": "Strip", "content": "a", "start": 10**9, "stop": 10**9}},
        {"decoder": {"type": "Strip", "content": "a", "start": 1, "stop": 10**9}},
    ],
    ids=["empty pattern", "endless pattern", "strip", "strip behind"],
)
def test_a_hostile_tokenizer(tmp_path: Path, parts: dict[str, Any]) -> None:
    """It either works or is refused; whatever else it raises fails this test."""
    with suppress(BundleError):
        tokenizer = BundleTokenizer(edited(tmp_path, **parts))
        for text in ("a b", "a" * 40 + "!"):
            tokenizer.decode(tokenizer.encode(text, special=True))


@pytest.mark.parametrize(
    "parts",
    [
        {"truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5}},
        {
            "padding": {
                "strategy": {"Fixed": 10**12},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
            }
        },
    ],
    ids=["cut", "padded"],
)
def test_a_prompt_is_neither_cut_nor_padded(tmp_path: Path, parts: dict[str, Any]) -> None:
    plain = BundleTokenizer(Bundle.demo().file("tokenizer.json"))
    text = "Once upon a time there was a dog"
    assert BundleTokenizer(edited(tmp_path, **parts)).encode(text, special=True) == plain.encode(text, special=True)


def test_a_tokenizer_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        BundleTokenizer(tmp_path / "tokenizer.json")
