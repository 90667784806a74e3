"""Chat templates: text and ids are those of transformers' apply_chat_template, and hostile ones cost nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from balcony_edge import BalconyError
from balcony_edge.text.chat import ChatTemplate
from balcony_edge.text.tokenizer import BundleTokenizer
from helpers import tokenizer_zoo
from helpers.chat_situations import SITUATIONS, USER

HOSTILE = {
    "break": "{% break %}",
    "loops": "{% for a in [1] %}" * 25 + "{% endfor %}" * 25,
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a number": "{{ 10**5000 }}",
    "a product": "{{ 10**2000 * 10**2000 }}",
    "gigabytes": "{{ ('a'*(3*10**9))|length }}",
    "gigabytes of a list": "{{ ([1]*(3*10**9))|length }}",
    "a width": "{{ '%999999999d' % 1 }}",
    "a width in the arguments": "{{ '%*d' % (10**9, 1) }}",
    "a method": "{{ 'a'.ljust(10**9)|length }}",
    "a filter": "{{ 'a'|center(10**9)|length }}",
    "JSON": "{{ [1]|tojson(indent=10**9) }}",
    "no end": "{% generation %}",
    "private": "{% set n = namespace(_a=1) %}",
    "unsafe": "{{ ''.__class__.__mro__ }}",
    "deep": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_zoo.write("byte level, start", tmp_path_factory.mktemp("zoo"))


@pytest.mark.parametrize("name", SITUATIONS)
def test_text_and_ids_are_those_of_transformers(folder: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    source, messages, settings = SITUATIONS[name]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    settings = {"add_generation_prompt": True, **settings}
    expected = theirs.apply_chat_template(messages, chat_template=source, tokenize=False, **settings)
    text = ChatTemplate(source, tokenizer_zoo.NAMES, "b").render(messages, **settings)
    assert text == expected
    ids = theirs.apply_chat_template(messages, chat_template=source, return_dict=False, **settings)
    assert BundleTokenizer(folder / "tokenizer.json").encode(text, special=False) == ids


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_at_once(name: str) -> None:
    template = ChatTemplate(HOSTILE[name], {}, "b")
    with pytest.raises(BalconyError, match="chat template") as caught:
        template.render(USER)
    assert "--no-chat-template" in caught.value.hint
    assert len(json.dumps(caught.value.message)) < 1000
