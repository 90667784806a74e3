"""Replies over HTTP: the very tokens of a session, whole and streamed, with what they cost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from balcony_controller import FixedDepth
from balcony_edge import AdaptiveSession
from balcony_edge.control.loaded import Loaded

PROMPT = "Once upon a time"
CHAT = [{"role": "user", "content": "Tell a story."}]


def events(client: TestClient, path: str, body: dict[str, Any]) -> list[Any]:
    """The objects of a stream, which must end in [DONE]."""
    with client.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def plain(loaded: Loaded, ids: str | list[int], count: int) -> str:
    """The text of plain full depth, decoded alone."""
    with AdaptiveSession(loaded) as session:
        reply = session.reply(ids, count, decider=FixedDepth(session.ladder.full))
        return "".join(token.text for token in reply)


def test_a_completion_is_plain_full_depths_text(client: TestClient, loaded: Loaded) -> None:
    answer = client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 24}).json()
    (choice,) = answer["choices"]
    assert choice["text"] == plain(loaded, PROMPT, 24)
    assert choice["finish_reason"] == "length"
    assert answer["object"] == "text_completion"
    assert answer["usage"]["completion_tokens"] == 24
    assert answer["timings"]["lossless"]
    assert answer["timings"]["depth_counts"] == {"12": 24}
    assert answer["timings"]["energy_mj_per_token"] is None


def test_a_streamed_completion_is_the_same_text(client: TestClient) -> None:
    body = {"prompt": PROMPT, "max_tokens": 24}
    whole = client.post("/v1/completions", json=body).json()
    chunks = events(client, "/v1/completions", {**body, "stream_options": {"include_usage": True}})
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks[:-1]) == whole["choices"][0]["text"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * 24 + ["length"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 24
    assert all(chunk["balcony"]["depth"] == 12 for chunk in (one["choices"][0] for one in chunks[:24]))
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_a_chat_goes_through_the_template(client: TestClient, loaded: Loaded) -> None:
    answer = client.post("/v1/chat/completions", json={"messages": CHAT, "max_completion_tokens": 16}).json()
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == plain(loaded, loaded.codec.encode_chat(CHAT), 16)
    assert choice["message"]["role"] == "assistant"
    parts = [{"role": "user", "content": [{"type": "text", "text": "Tell a"}, {"type": "text", "text": " story."}]}]
    again = client.post("/v1/chat/completions", json={"messages": parts, "max_tokens": 16}).json()
    assert again["choices"][0]["message"] == choice["message"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_a_streamed_chat_begins_with_the_role(client: TestClient) -> None:
    body = {"messages": CHAT, "max_tokens": 16}
    whole = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    chunks = events(client, "/v1/chat/completions", body)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == whole
    assert chunks[-1]["timings"]["predicted_n"] == 16


@pytest.mark.parametrize("stop", [" little", "tle gi", [" zzz", "girl"]])
def test_stop_texts_may_span_tokens(client: TestClient, stop: str | list[str]) -> None:
    free = client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 24}).json()["choices"][0]["text"]
    body = {"prompt": PROMPT, "max_tokens": 24, "stop": stop}
    choice = client.post("/v1/completions", json=body).json()["choices"][0]
    first = min(free.find(text) for text in ([stop] if isinstance(stop, str) else stop) if text in free)
    assert choice["text"] == free[:first]
    assert choice["finish_reason"] == "stop"
    assert "".join(chunk["choices"][0]["text"] for chunk in events(client, "/v1/completions", body)) == free[:first]


def test_logprobs_are_those_of_the_full_model(client: TestClient, loaded: Loaded) -> None:
    body = {"messages": CHAT, "max_tokens": 12, "logprobs": True, "top_logprobs": 3}
    content = client.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"]["content"]
    assert len(content) == 12
    ids = loaded.codec.encode_chat(CHAT)
    with AdaptiveSession(loaded) as session:
        reply = session.reply(ids, 12, decider=FixedDepth(session.ladder.full))
        tokens = [token.id for token in reply]
        logits = session.logits([*ids, *tokens[:-1]])[len(ids) - 1 :].astype(float)
    for row, entry in zip(logits, content, strict=True):
        logprobs = row - row.max()
        logprobs = logprobs - __import__("numpy").log(__import__("numpy").exp(logprobs).sum())
        assert entry["logprob"] == pytest.approx(max(logprobs), abs=1e-9)
        assert [top["logprob"] for top in entry["top_logprobs"]] == sorted(logprobs)[:-4:-1]
        assert entry["token"] == bytes(entry["bytes"]).decode() == entry["top_logprobs"][0]["token"]


def test_a_seed_repeats_and_replies_differ(client: TestClient) -> None:
    body = {"prompt": PROMPT, "max_tokens": 16, "temperature": 1.2, "seed": 5, "n": 3}
    one, two = (client.post("/v1/completions", json=body).json() for _ in range(2))
    texts = [choice["text"] for choice in one["choices"]]
    assert [choice["index"] for choice in one["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts == [choice["text"] for choice in two["choices"]]
    assert one["usage"]["completion_tokens"] == 48


def test_biases_and_penalties(client: TestClient, loaded: Loaded) -> None:
    (comma,) = loaded.codec.encode_bare(",")
    body = {"prompt": PROMPT, "max_tokens": 16}
    assert "," in client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    banned = client.post("/v1/completions", json={**body, "logit_bias": {str(comma): -100}}).json()
    assert "," not in banned["choices"][0]["text"]
    forced = client.post("/v1/completions", json={**body, "logit_bias": {str(comma): 100}}).json()
    assert forced["choices"][0]["text"] == "," * 16
    spread = {**body, "logit_bias": {str(comma): 100}, "frequency_penalty": 2.0, "presence_penalty": 2.0}
    assert client.post("/v1/completions", json=spread).json()["choices"][0]["text"].count(",") == 16


def test_a_request_brings_its_budget(client: TestClient) -> None:
    body = {"prompt": PROMPT, "max_tokens": 48, "budget": "0.000001ms"}
    timings = client.post("/v1/completions", json=body).json()["timings"]
    assert timings["budget"] == "1e-06ms"
    assert not timings["lossless"]
    assert timings["depth_counts"].get("3", 0) > 40
    audited = client.post("/v1/completions", json={**body, "audit": True}).json()["timings"]
    assert 0.0 < audited["agreement"] < 1.0
    assert (audited["agreement_n"], audited["predicted_n"]) == (48, 48)
    floor = client.post("/v1/completions", json={**body, "min_agreement": 1.0}).json()["timings"]
    assert floor["lossless"]
    by_header = {"x-balcony-budget": "0.000001ms"}
    other = client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 8}, headers=by_header).json()
    assert other["timings"]["budget"] == "1e-06ms"
    after = client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 8}).json()["timings"]
    assert after["budget"] == "full"
    assert after["lossless"]
