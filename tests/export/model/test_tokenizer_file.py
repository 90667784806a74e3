"""The ids of a bundle's tokenizer are those of transformers, whatever the kind of tokenizer and whatever the text."""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from balcony_edge.text.tokenizer import BundleTokenizer
from balcony_export.model.generation_config import read_generation
from balcony_export.model.tokenizer.file import prepare
from balcony_export.verification.texts import TEXTS
from helpers import tokenizer_zoo

PIECES = [
    "<s>",
    "</s>",
    "<unk>",
    " ",
    "  ",
    "\n",
    "\t",
    "\r\n",
    "1",
    "22",
    "the",
    " there",
    "é",
    "e\u0301",
    "👍🏽",
    "我",
    "▁",
]
STRINGS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.sampled_from(TEXTS),
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Both sides of a kind: the bundle's tokenizer and transformers'."""

    @functools.cache
    def made(kind: str) -> tuple[BundleTokenizer, Any]:
        folder = tokenizer_zoo.write(kind, tmp_path_factory.mktemp("zoo"))
        path = folder / "tokenizer.json"
        theirs = AutoTokenizer.from_pretrained(folder)
        if (rebuilt := prepare(folder)) is not None:
            path.write_text(rebuilt)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        return BundleTokenizer(path, bool(settings.get("split_special_tokens"))), theirs

    logging.getLogger("transformers").setLevel(logging.ERROR)
    return made


@pytest.mark.parametrize("kind", tokenizer_zoo.KINDS)
@given(text=STRINGS)
def test_ids_and_text_are_those_of_transformers(pair: Any, kind: str, text: str) -> None:
    ours, theirs = pair(kind)
    for special in (True, False):
        ids = theirs(text, add_special_tokens=special)["input_ids"]
        assert ours.encode(text, special) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [("sentencepiece", False), ("Mistral", False), ("Gemma", False), ("Llama", True), ("GPT 2", True)],
)
def test_the_file_is_changed_only_where_transformers_does_not_take_it_as_it_is(
    tmp_path: Path, kind: str, changed: bool
) -> None:
    assert (prepare(tokenizer_zoo.write(kind, tmp_path)) is not None) is changed


@pytest.mark.parametrize(
    ("kind", "adds"),
    [("byte level", False), ("byte level, start", True), ("unigram", False), ("Llama, no space", False)],
)
def test_the_manifest_says_whether_the_tokenizer_adds_a_start_token(tmp_path: Path, kind: str, adds: bool) -> None:
    folder = tokenizer_zoo.write(kind, tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2}))
    generation = read_generation(folder)
    assert (generation.bos_token_id, generation.add_bos) == (1, adds)
