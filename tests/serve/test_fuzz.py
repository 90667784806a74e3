"""Bodies that somebody broke: each is answered, or refused with a reason, and the server goes on."""

from __future__ import annotations

import json
from functools import partial

import pytest
from starlette.testclient import TestClient

from helpers.fuzz import LONG, SHORT, fuzz
from helpers.mutations import Mutation, mutated, mutated_json
from helpers.served import SCHEMA, TOOL

CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ],
    "max_tokens": 2,
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": 1,
    "stop": ["x"],
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"5": -1.0},
    "presence_penalty": 0.5,
    "n": 1,
    "budget": "1ms",
    "min_agreement": 0.5,
    "stream": False,
    "stream_options": {"include_usage": True},
}
FORMED = {
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 3,
    "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}},
}
TOOLED = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "tools": [TOOL], "tool_choice": "auto"}
TEXT = {"prompt": ["Once", "upon"], "max_tokens": 2, "logprobs": 1, "stream": True}
RESPONSE = {
    "input": [{"role": "user", "content": "Hi"}, {"type": "function_call_output", "call_id": "1", "output": "x"}],
    "max_output_tokens": 2,
    "tools": [{"type": "function", **TOOL["function"]}],
}
GOOD = {
    "/v1/chat/completions": [CHAT, FORMED, TOOLED],
    "/v1/completions": [TEXT],
    "/v1/responses": [RESPONSE],
    "/v1/budget": [{"budget": "full"}],
    "/v1/check": [{"prompt": "Hi", "text": "x", "max_tokens": 2}],
    "/tokenize": [{"content": "Hi"}],
    "/detokenize": [{"tokens": [5, 6]}],
}
CASES = [(path, body) for path, bodies in GOOD.items() for body in bodies]


def ask(client: TestClient, path: str, content: bytes) -> None:
    """Send a body. It must be answered or refused, and never with a failure of the server."""
    answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 404, 413), (answer.status_code, answer.text[:500], content[:2000])
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error["message"]
        assert error["message"].isprintable() or "\n" in error["message"]
    elif answer.headers["content-type"].startswith("text/event-stream"):
        assert '"server_error"' not in answer.text, (answer.text[-500:], content[:2000])


@pytest.mark.parametrize(("path", "body"), CASES, ids=[path for path, _ in CASES])
def test_good_bodies_are_answered(client: TestClient, path: str, body: object) -> None:
    assert client.post(path, json=body).status_code == 200


@pytest.mark.parametrize("mutate", [mutated, mutated_json])
@pytest.mark.parametrize(("path", "body"), CASES, ids=[path for path, _ in CASES])
def test_broken_bodies(client: TestClient, path: str, body: object, mutate: Mutation) -> None:
    fuzz(json.dumps(body).encode(), mutate, partial(ask, client, path), SHORT // 3)


@pytest.mark.long
@pytest.mark.parametrize("mutate", [mutated, mutated_json])
def test_many_broken_bodies(client: TestClient, mutate: Mutation) -> None:
    for path, body in CASES:
        fuzz(json.dumps(body).encode(), mutate, partial(ask, client, path), LONG // (2 * len(CASES)), seed=23)
