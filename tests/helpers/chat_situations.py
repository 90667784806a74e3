"""Conversations and the templates that write them: every feature that real templates use, and each family's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
FEATURES: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
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


def _template(family: str) -> str:
    """What the templates of a family do, in a few lines."""
    return (Path(__file__).parent / "templates" / f"{family}.jinja").read_text(encoding="utf-8")


TURNS = [*TALK[1:3], {"role": "user", "content": "  12 +   3 = ½?\n"}]
FAMILIES: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
    "SmolLM2": (CHATML.replace("<s>", "<|im_start|>").replace("</s>", "<|im_end|>"), TALK, {}),
    "Gemma": (_template("gemma"), TURNS, {}),
    "Gemma, nothing to come": (_template("gemma"), TURNS, {"add_generation_prompt": False}),
    "Gemma 3": (_template("gemma3"), TALK, {}),
    "Gemma 3, parts": (_template("gemma3"), PARTS, {}),
    "Llama 3": (_template("llama3"), TALK[:2], {}),
    "Llama 3, tools": (_template("llama3"), USER + CALL, {"tools": [TOOL, TOOL]}),
    "Qwen": (_template("qwen3"), TALK, {}),
    "Qwen, reasoning": (_template("qwen3"), REASONING, {}),
    "Qwen, tools": (_template("qwen3"), USER + CALL, {"tools": [TOOL]}),
    "Mistral": (_template("mistral"), TALK[:2], {}),
    "Mistral, tools": (_template("mistral"), TURNS, {"tools": [TOOL, TOOL]}),
    "Phi": (_template("phi4"), TURNS, {}),
    "Phi, tools": (
        _template("phi4"),
        [{"role": "system", "content": "a", "tools": "[]"}, *USER],
        {"add_generation_prompt": False},
    ),
    "Granite": (_template("granite"), USER, {"documents": [{"text": "a"}, {"text": "b\n"}]}),
    "Granite, system": (_template("granite"), TALK, {}),
    "SmolLM3": (_template("smollm3"), TURNS, {}),
    "SmolLM3, no thoughts": (_template("smollm3"), [{"role": "user", "content": "/no_think hi "}], {}),
}
SITUATIONS = FEATURES | FAMILIES
