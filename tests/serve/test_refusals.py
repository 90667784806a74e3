"""Bad requests get a status and a reason; nothing that a client sends stops the server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.testclient import TestClient

from balcony_edge.control.budgets import parse_budget
from balcony_edge.control.loaded import Loaded
from balcony_edge.serve.app import application
from balcony_edge.serve.reading import MOST_BYTES
from balcony_edge.serve.service import Service
from balcony_edge.serve.slots import BusyError, Slots

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
TEXT: dict[str, Any] = {"prompt": "Once", "max_tokens": 2}


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": [{"content": "Hi"}]}, "messages.0.role"),
        ("chat/completions", {**CHAT, "temperature": -1}, "temperature"),
        ("chat/completions", {**CHAT, "temperature": "warm"}, "temperature"),
        ("chat/completions", {**CHAT, "n": 0}, "n"),
        ("chat/completions", {**CHAT, "n": 10**9}, "n"),
        ("chat/completions", {**CHAT, "top_logprobs": 3}, "top_logprobs"),
        ("chat/completions", {**CHAT, "stop": ["x"] * 99}, "stop"),
        ("chat/completions", {**CHAT, "stop": ""}, "empty"),
        ("chat/completions", {**CHAT, "budget": "tomorrow"}, "budget"),
        ("chat/completions", {**CHAT, "budget": "5W"}, "power_w"),
        ("chat/completions", {**CHAT, "logit_bias": {"banana": 1}}, "banana"),
        ("chat/completions", {**CHAT, "logit_bias": {"999999": 1}}, "999999"),
        ("chat/completions", {**CHAT, "tool_choice": "required"}, "tools"),
        ("chat/completions", {**CHAT, "response_format": {"type": "json_schema"}}, "json_schema"),
        ("chat/completions", {**CHAT, "response_format": {"type": "regex", "pattern": "(("}}, "grammar"),
        ("chat/completions", {**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        (
            "check",
            {"text": "x", "max_tokens": 2, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "image_url",
        ),
        ("completions", {"prompt": []}, "prompt"),
        ("completions", {"prompt": [[1, 2, -5]]}, "-5"),
        ("completions", {"prompt": [10**9]}, "1000000000"),
        ("completions", {**TEXT, "max_tokens": 0}, "max_tokens"),
        ("completions", {**TEXT, "suffix": "x"}, "suffix"),
        ("completions", {"prompt": "word " * 5000}, "context"),
        ("completions", [1, 2], "the body"),
        ("responses", {"input": 7}, "input"),
        ("responses", {"input": [{"type": "item_reference", "id": "x"}]}, "item_reference"),
        ("responses", {"input": "Hi", "tools": [{"type": "web_search"}]}, "tools"),
    ],
)
def test_a_bad_body_is_explained(client: TestClient, path: str, body: Any, said: str) -> None:
    for streams in (False, True):
        sent = {**body, "stream": True} if streams and isinstance(body, dict) else body
        answer = client.post(f"/v1/{path}", json=sent)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert said in f"{error['message']} {error['param']}"
        assert error["code"] == 400
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"prompt": NaN}', b"null"])
def test_what_is_no_json_is_refused(client: TestClient, content: bytes) -> None:
    answer = client.post("/v1/completions", content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_huge_body_is_refused(client: TestClient) -> None:
    assert client.post("/v1/completions", content=b" " * (MOST_BYTES + 1)).status_code == 413


def test_unknown_paths_and_methods(client: TestClient) -> None:
    assert client.get("/v1/nothing").json()["error"]["code"] == 404
    assert client.get("/v1/completions").status_code == 405
    assert client.get("/v1/models/other").status_code == 404
    assert client.put("/v1/budget", json={"budget": "9ms", "reply": "nobody"}).status_code == 404


def test_a_key_is_asked_for(service: Service) -> None:
    with TestClient(application(service, "secret", patience_s=1.0)) as client:
        assert client.post("/v1/completions", json=TEXT).status_code == 401
        wrong = {"Authorization": "Bearer other"}
        assert (
            client.post("/v1/completions", json=TEXT, headers=wrong).json()["error"]["type"] == "authentication_error"
        )
        assert client.post("/v1/completions", json=TEXT, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert client.get("/health").status_code == 200
        assert client.get("/metrics").status_code == 401
        assert client.get("/").status_code == 200


def test_web_pages_need_leave(service: Service) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    with TestClient(application(service, origins=["https://a.example"], patience_s=1.0)) as client:
        answer = client.options("/v1/completions", headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        other = client.options("/v1/completions", headers={**asked, "Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


# --- slots ---


def test_the_queue_is_bounded_and_first_come_first_served(loaded: Loaded) -> None:
    slots = Slots(loaded, 1, parse_budget("full"), queue=2)
    order: list[int] = []

    async def one(number: int, gate: asyncio.Event) -> None:
        async with slots.slot([1, 2, 3]):
            order.append(number)
            await gate.wait()

    async def all_of_them() -> None:
        gate = asyncio.Event()
        tasks = [asyncio.create_task(one(number, gate)) for number in range(3)]
        await asyncio.sleep(0)
        assert (slots.busy, slots.waiting) == (1, 2)
        with pytest.raises(BusyError, match="2 requests wait"):
            await one(9, gate)
        tasks[1].cancel()
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (slots.busy, slots.waiting) == (0, 0)

    asyncio.run(all_of_them())
    assert order == [0, 2]


def test_a_slot_that_was_given_to_somebody_who_left_is_free_again(loaded: Loaded) -> None:
    slots = Slots(loaded, 1, parse_budget("full"), queue=2)

    async def go() -> None:
        async def wait() -> None:
            async with slots.slot([1]):
                pass

        async with slots.slot([1]):
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0)
        # The slot is the waiting one's now, which has not run since.
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (slots.busy, slots.waiting) == (0, 0)
        async with slots.slot([1]):
            assert slots.busy == 1

    asyncio.run(go())


def test_the_slot_with_the_longest_common_beginning_is_taken(loaded: Loaded) -> None:
    slots = Slots(loaded, 2, parse_budget("full"))
    for slot, text in zip(slots.slots, ("Once upon a time", "The big dog"), strict=True):
        list(slot.session.stream(text, 2))

    async def number(text: str) -> int:
        async with slots.slot(loaded.codec.encode(text)) as slot:
            return slot.number

    assert asyncio.run(number("Once upon a hill")) == 0
    assert asyncio.run(number("The big cat")) == 1


def test_slots_share_their_weights(loaded: Loaded) -> None:
    one, other = Slots(loaded, 2, parse_budget("full")).slots
    for mine, its in zip(one.session.ladder.stages, other.session.ladder.stages, strict=True):
        assert mine._session is its._session
        assert mine.cache_arrays()[0].ctypes.data != its.cache_arrays()[0].ctypes.data
