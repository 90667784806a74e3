"""Text to ids and back as transformers does it, for tokenizers of all families and random texts."""

from __future__ import annotations

import functools
import json
import logging
import zlib
from typing import Any

import pytest
from transformers import AutoTokenizer

from balcony_edge.text.tokenizer import BundleTokenizer
from balcony_export.model.families import FAMILIES
from balcony_export.model.tokenizer.file import prepare
from balcony_export.verification.texts import TEXTS, random_texts
from helpers import family_tokenizers
from helpers.family_tokenizers import TOKENIZERS

FEW, MANY = 60, 2000


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Both sides: the tokenizer that a bundle gets, and transformers' own."""

    @functools.cache
    def made(name: str) -> tuple[BundleTokenizer, Any]:
        folder = family_tokenizers.write(name, tmp_path_factory.mktemp("family"))
        theirs = AutoTokenizer.from_pretrained(folder)
        if (rebuilt := prepare(folder)) is not None:
            (folder / "tokenizer.json").write_text(rebuilt)
        return BundleTokenizer(folder / "tokenizer.json"), theirs

    logging.getLogger("transformers").setLevel(logging.ERROR)
    return made


def compare(ours: BundleTokenizer, theirs: Any, count: int, seed: int) -> None:
    # CodeLlamaTokenizer takes a text with this token apart, to have the gap filled. We take it as the token that it is.
    special = [token.content for token in theirs.added_tokens_decoder.values() if token.content != "<FILL_ME>"]
    for text in [*TEXTS, *random_texts(count, seed, special)]:
        ids = theirs(text, verbose=False)["input_ids"]
        assert ours.encode(text, special=True) == ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text
        bare = theirs(text, add_special_tokens=False, verbose=False)["input_ids"]
        assert ours.encode(text, special=False) == bare, text


def test_every_family_is_here() -> None:
    assert {tokenizer.family for tokenizer in TOKENIZERS.values()} == FAMILIES.keys()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_and_text(pair: Any, name: str) -> None:
    compare(*pair(name), FEW, zlib.crc32(name.encode()))


@pytest.mark.long
@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_and_text_of_many(pair: Any, name: str) -> None:
    compare(*pair(name), MANY, 0)


def test_random_texts_are_the_same_each_time_and_reach_what_parts_tokenizers() -> None:
    texts = list(random_texts(MANY, 0, ["<s>"]))
    assert texts == list(random_texts(MANY, 0, ["<s>"]))
    assert json.loads(json.dumps(texts)) == texts
    assert "" in texts
    joined = "".join(texts)
    assert all(piece in joined for piece in ("\u200d", "\x00", "<s>", "e\u0301", "\r\n", "   ", "\ufeff", "\U0001f469"))
    # Characters of hundreds of blocks, and none that is half a character.
    assert len({ord(character) >> 8 for character in joined}) > 100
    joined.encode("utf-8")
