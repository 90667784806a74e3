"""Chat templates: text and ids are those of transformers' apply_chat_template, and hostile ones cost nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from balcony_edge import BalconyError
from balcony_edge.decoding.chat import ChatTemplate
from balcony_edge.decoding.tokenizer import BundleTokenizer
from helpers import tokenizer_zoo

USER = [{"role": "user", "content": "Größe <b>“x”</b> & 'y' 👍🏽"}]
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be  brief.\n"},
    {"role": "user", "content": " hi "},
    {"role": "assistant", "content": "<think>so</think>Hello!", "tool_calls": None},
    {"role": "user", "content": "1 + 1?"},
]
REASONING = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning": "because"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]
CALL = [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"b": [1, 2.5], "a": "é"}}}]}]
TOOL = {"type": "function", "function": {"name": "f", "description": "ä", "parameters": {"type": "object"}}}
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<s>system\nYou are helpful</s>\n' }}{% endif %}"
    "{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system = false %}"
    "{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (('<<SYS>>\n' + system + '\n<</SYS>>\n\n') if system and loop.first else '')"
    " + message['content'].strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
TOOLS = (
    "{%- if tools is not none %}\n  {{- '# Tools' }}\n  {%- for tool in tools %}\n"
    "    {{- '\\n' }}{{- tool | tojson(indent=2) }}\n  {%- endfor %}\n{%- else %}none{%- endif %}"
)
# The name of a situation: the template, the messages, and other arguments.
SITUATIONS: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
    "ChatML": (CHATML, USER, {}),
    "ChatML, a talk": (CHATML, TALK, {}),
    "ChatML, nothing to come": (CHATML, TALK, {"add_generation_prompt": False}),
    "Llama 2": (LLAMA2, USER, {}),
    "Llama 2, a talk": (LLAMA2, TALK, {}),
    "start token": ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ unk_token }}", USER, {}),
    "a token that is not there": ("[{{ pad_token }}{{ cls_token }}]{{ pad_token is defined }}", USER, {}),
    "generation": ("a{% generation %} {{ messages[0].content }} {% endgeneration %}b", USER, {}),
    "generation, trimmed": ("a  {%- generation -%} x \n {%- endgeneration %}\n b", USER, {}),
    "generation in a loop": (
        "{% for m in messages %}{% generation %}{{ m.role }}{{ loop.index }}{% endgeneration %}{% endfor %}",
        TALK,
        {},
    ),
    "no tools": (TOOLS, USER, {}),
    "tools": (TOOLS, USER, {"tools": [TOOL, TOOL]}),
    "no documents": ("{{ documents is none }}{{ documents }}", USER, {}),
    "documents": (
        "{% for d in documents %}{{ d.title }}: {{ d.text }}{% endfor %}",
        USER,
        {"documents": [{"title": "ä", "text": "b"}]},
    ),
    "JSON": ("{{ messages | tojson }}", USER, {}),
    "JSON in ASCII": ("{{ messages | tojson(ensure_ascii=true) }}", USER, {}),
    "JSON, indented": ("{{ messages | tojson(indent=4) }}", TALK, {}),
    "JSON, sorted": ("{{ messages | tojson(sort_keys=true, separators=(',', ':')) }}", CALL, {}),
    "JSON, by place": ("{{ messages | tojson(false, 1) }}", CALL, {}),
    "date": ("{{ strftime_now('%d %b %Y') }}", USER, {}),
    "today by name": (
        "{% if not date is defined %}{% set date = strftime_now(format='%Y') %}{% endif %}{{ date }}",
        USER,
        {},
    ),
    "trimmed blocks": ("  {% if true %}\n  a\n  {% endif %}\n   b\n{% if false %}\nx\n{% endif %}\nc\n", USER, {}),
    "break and continue": (
        "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{% if loop.index == 4 %}{% break %}"
        "{% endif %}{{ m.role }}{% endfor %}",
        TALK,
        {},
    ),
    "namespace": (
        "{% set ns = namespace(n=0, self=1) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        TALK,
        {},
    ),
    "dict": ("{% set d = dict(a=1, **{'b': 2}) %}{{ d.items() | list }}{{ dict.fromkeys([1]) }}", USER, {}),
    "macro": (
        "{% macro turn(m) %}<{{ m.role }}>{{ m.content | trim }}{% endmacro %}"
        "{% for m in messages %}{{ turn(m) }}{% endfor %}",
        TALK,
        {},
    ),
    "missing keys": (
        "{% for m in messages %}{{ 'tool_calls' in m }}{{ m.name is defined }}{{ m.x }}{% endfor %}",
        TALK,
        {},
    ),
    "reasoning": (
        "{{ messages[1].reasoning_content }}{{ messages[1].thinking }}{{ messages[1].reasoning }}",
        REASONING,
        {},
    ),
    "parts": ("{% for p in messages[0].content %}{{ p.type }}{{ p['text'] }}{% endfor %}", PARTS, {}),
    "a call": ("{% for c in messages[0].tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}", CALL, {}),
    "thinking cut off": (
        "{% for m in messages %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% endfor %}",
        TALK,
        {},
    ),
    "arithmetic": ("{{ 2 ** 10 * 3 % 7 }}{{ '-' * 12 }}{{ '%5d|%s' % (3, 'x') }}{{ [1] * 3 }}{{ 7 // 2 }}", USER, {}),
    "padding": ("{{ 'x'.center(9) }}{{ 'x' | center(9) }}{{ 'a\nb' | indent(3) }}{{ '{:>5}'.format(1) }}", USER, {}),
    "escapes": ("{{ '<a>&' }}{{ '<' | e }}{{ \"it's\" }}", USER, {}),
}
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
