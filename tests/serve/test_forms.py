"""Replies in a given form and calls of tools: valid at every budget, and lossless ones those of plain full depth."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from balcony_edge.control.loaded import Loaded
from balcony_edge.serve.api.tools import ToolUse
from balcony_edge.serve.bodies import Tool
from balcony_edge.text.chat import ChatTemplate
from helpers.served import SCHEMA, TOOL

pytest.importorskip("llguidance")

CHAT = [{"role": "user", "content": "Who are you?"}]
BUDGETS = ("full", "0.000001ms", "0.25ms")


def said(client: TestClient, budget: str, **more: Any) -> dict[str, Any]:
    body = {"messages": CHAT, "max_tokens": 60, "budget": budget, **more}
    answer: dict[str, Any] = client.post("/v1/chat/completions", json=body).json()
    return answer


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_schema_is_kept(client: TestClient, budget: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    choice = said(client, budget, response_format=form)["choices"][0]
    person = json.loads(choice["message"]["content"])
    assert person["name"] in ("Lily", "Tom")
    assert 1 <= person["age"] <= 9
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("budget", BUDGETS)
def test_patterns_and_grammars_are_kept(client: TestClient, budget: str) -> None:
    pattern = {"type": "regex", "pattern": "[A-C]{3} [0-9]{2}"}
    assert re.fullmatch(
        "[A-C]{3} [0-9]{2}", said(client, budget, response_format=pattern)["choices"][0]["message"]["content"]
    )
    lark = {"type": "lark", "grammar": 'start: "yes" | "no"'}
    assert said(client, budget, response_format=lark)["choices"][0]["message"]["content"] in ("yes", "no")


def test_lossless_forms_are_plain_full_depths(client: TestClient) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    free = said(client, "full", response_format=form)
    # Sampled replies with a seed draft nothing, so temperature 0 by that way is plain full depth.
    plain = said(client, "full", response_format=form, temperature=1e-9, seed=1)
    assert free["timings"]["lossless"]
    assert free["choices"][0]["message"]["content"] == plain["choices"][0]["message"]["content"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "greet"}}])
def test_a_call_can_be_forced(client: TestClient, choice: Any) -> None:
    message = said(client, "full", tools=[TOOL], tool_choice=choice)["choices"][0]
    (call,) = message["message"]["tool_calls"]
    assert message["finish_reason"] == "tool_calls"
    assert call["function"]["name"] == "greet"
    assert set(json.loads(call["function"]["arguments"])) == {"name", "age"}
    body = {"messages": CHAT, "max_tokens": 60, "tools": [TOOL], "tool_choice": choice, "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    called = [line["choices"][0]["delta"] for line in lines if "tool_calls" in line["choices"][0]["delta"]]
    assert called[0]["tool_calls"][0]["function"]["arguments"] == call["function"]["arguments"]


def test_a_template_without_tools_offers_them_as_system(loaded: Loaded) -> None:
    codec = loaded.codec
    old = codec.chat_template
    plain = ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", {}, "plain")
    use = ToolUse.of(loaded.codec, [Tool.model_validate(TOOL)], None)
    assert use is not None
    try:
        codec.chat_template = plain
        alone, told = (
            codec.decode(use.encode([*more, *CHAT])) for more in ([], [{"role": "system", "content": "Be brief."}])
        )
    finally:
        codec.chat_template = old
    assert alone.startswith('system: You can call these functions:\n{"name": "greet"')
    assert told.startswith("system: Be brief.\n\nYou can call these functions:")
    assert alone.endswith(told[-20:])


def test_without_a_call_the_text_comes(client: TestClient) -> None:
    with_tools = said(client, "full", tools=[TOOL], max_tokens=8)["choices"][0]
    assert with_tools["message"]["content"]
    assert "tool_calls" not in with_tools["message"]
    unused = said(client, "full", tools=[TOOL], tool_choice="none", max_tokens=8)["choices"][0]["message"]
    assert unused == said(client, "full", max_tokens=8)["choices"][0]["message"]
