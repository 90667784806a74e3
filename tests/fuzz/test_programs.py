"""Broken templates and tokenizers, which are programs: what they do happens to a child process, and is explained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from balcony_edge import Bundle
from balcony_edge.text import chat
from balcony_edge.text.chat import ChatTemplate
from balcony_edge.text.confined import Confined, ConfinedError
from helpers.fuzz import LONG, SHORT, fuzz
from helpers.mutations import limited, mutated, mutated_json

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello\n"}]
TEMPLATE = b"""{%- macro said(role, text) -%}<|{{ role }}|>{{ text | trim }}{{ eos_token }}{%- endmacro -%}
{%- set ns = namespace(first=true, all=[]) -%}
{%- for message in messages -%}
  {%- if message['role'] not in ['user', 'assistant', 'system'] -%}{{ raise_exception('a role ' ~ message.role) }}
  {%- elif loop.index0 % 2 == 0 and ns.first -%}{{ said(message.role, message.content * 2 ** 3) }}
  {%- else -%}{% generation %}{{ "%5s" % message.content | upper | tojson(indent=2) }}{% endgeneration %}
  {%- endif -%}
  {%- set ns.first = false -%}{%- set ns.all = ns.all + [message] -%}
  {%- if loop.last %}{% break %}{% endif -%}
{%- endfor -%}
{{ ns.all | length }}{{ strftime_now('%Y') }}{% if add_generation_prompt %}{{ dict(a=1) | items | list }}{% endif %}"""
# Parts of tokenizers that are exchanged for the demo's own.
PARTS = [
    {"normalizer": {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": "zz"}},
    {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Prepend", "prepend": "_"}]}},
    {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a|b*"}, "behavior": "Isolated", "invert": True}},
    {"decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}},
    {"decoder": {"type": "Strip", "content": " ", "start": 1, "stop": 0}},
    {"padding": {"strategy": {"Fixed": 8}, "direction": "Left", "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}},
    {"truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 1}},
]


def render(content: bytes) -> None:
    ChatTemplate(content.decode("utf-8", "replace"), {"eos_token": "</s>"}, "a bundle").render(MESSAGES)


def test_broken_templates() -> None:
    render(TEMPLATE)
    assert fuzz(TEMPLATE, mutated, render, SHORT) > 0


@pytest.mark.long
def test_many_broken_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "LIMIT_S", 2.0)
    assert fuzz(TEMPLATE, mutated, render, LONG, seed=23) > 0


def _tokenizers(folder: Path, count: int, seed: int) -> None:
    """Try ``count`` broken tokenizers in a child, which is replaced whenever one ends it."""
    content = json.loads((Bundle.demo().path / "tokenizer.json").read_text())
    # A few hundred tokens are enough, and faster.
    vocabulary = sorted(content["model"]["vocab"].items(), key=lambda item: item[1])[:300]
    content["model"] |= {"vocab": dict(vocabulary), "merges": content["model"]["merges"][:20]}
    rng = np.random.default_rng(seed)
    child = Confined(512 << 20)
    path = folder / "tokenizer.json"
    try:
        for _ in range(count):
            part = PARTS[int(rng.integers(0, len(PARTS)))] if rng.integers(0, 2) else {}
            path.write_bytes(mutated_json(json.dumps(content | part).encode(), rng))
            try:
                with limited():
                    answer = child.ask(5.0, do="tokenizer", path=str(path), split_special=bool(rng.integers(0, 2)))
            except ConfinedError as error:
                answer = {"error": str(error)}
            assert set(answer) <= {"error"}
    finally:
        child.close()


def test_broken_tokenizers(tmp_path: Path) -> None:
    _tokenizers(tmp_path, SHORT, 22)


@pytest.mark.long
def test_many_broken_tokenizers(tmp_path: Path) -> None:
    _tokenizers(tmp_path, LONG, 23)
