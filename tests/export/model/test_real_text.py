"""Real models' tokenizers, read from GGUF files in the folder that BALCONY_REAL_MODELS names; skipped without it."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from balcony_edge.text.chat import ChatTemplate
from balcony_edge.text.tokenizer import BundleTokenizer
from balcony_export.model.gguf.header import read_contents
from benchmarks import text_ids
from helpers.chat_situations import SITUATIONS

FILES = sorted(Path(os.environ.get("BALCONY_REAL_MODELS", os.devnull)).rglob("*.gguf"))
pytestmark = [pytest.mark.long, pytest.mark.skipif(not FILES, reason="BALCONY_REAL_MODELS names no folder with models")]
COUNT = 2000


# Reading a large vocabulary takes transformers half a minute.
@functools.cache
def sides(path: Path) -> tuple[BundleTokenizer, Any]:
    """Our tokenizer of a file and transformers', both used as they are."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return text_ids.ours(path), text_ids.theirs(path)


@functools.cache
def authors(path: Path) -> Any:
    """transformers' tokenizer of a file, made to cut text as the file says."""
    if not text_ids.cuts_digits(path):
        return sides(path)[1]
    theirs = text_ids.theirs(path)
    text_ids.cut_digits(theirs)
    return theirs


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ids_and_text(path: Path) -> None:
    ours, theirs = sides(path)
    digits = text_ids.cuts_digits(path)
    for text in text_ids.texts(theirs, COUNT, 1):
        ids = theirs(text, verbose=False)["input_ids"]
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text
        # transformers does not read out of a file that digits are cut off alone. Numbers of every kind count as digits.
        if not (digits and any(character.isnumeric() for character in text)):
            assert ours.encode(text, special=True) == ids, text
        assert ours.encode(text, special=True) == authors(path)(text, verbose=False)["input_ids"], text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_chats(path: Path) -> None:
    """Every situation, and the file's own template with the messages of all."""
    ours, theirs = sides(path)[0], authors(path)
    own = read_contents(path).metadata.get("tokenizer.chat_template")
    special = {key: str(text) for key, text in theirs.special_tokens_map.items() if isinstance(text, str)}
    compared = 0
    for source, messages, settings in SITUATIONS.values():
        settings = {"add_generation_prompt": True, **settings}
        for template in (source, own):
            if template is None or (
                template is own and not all(isinstance(turn.get("content"), str) for turn in messages)
            ):
                continue
            expected = theirs.apply_chat_template(messages, chat_template=template, tokenize=False, **settings)
            assert ChatTemplate(template, special, path.name).render(messages, **settings) == expected
            ids = theirs.apply_chat_template(messages, chat_template=template, return_dict=False, **settings)
            assert ours.encode(expected, special=False) == ids
            compared += 1
    assert compared >= 30
