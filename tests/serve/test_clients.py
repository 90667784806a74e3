"""Clients that others wrote, against a real server: what they ask for they get, and nothing of theirs was changed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from balcony_edge.serve.service import Service
from helpers.served import SCHEMA, TOOL

CHAT: list[Any] = [{"role": "user", "content": "Tell a story."}]


@pytest.fixture
def openai(address: str) -> Any:
    """OpenAI's own client."""
    return pytest.importorskip("openai").OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)


def test_openai_chat(openai: Any) -> None:
    answer = openai.chat.completions.create(model="stories", messages=CHAT, max_completion_tokens=24)
    assert answer.usage.completion_tokens == 24
    assert answer.choices[0].finish_reason == "length"
    assert answer.model_extra["timings"]["lossless"]
    chunks = list(
        openai.chat.completions.create(
            model="stories", messages=CHAT, max_tokens=24, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0


def test_openai_budgets(openai: Any) -> None:
    more: dict[str, Any] = {"budget": "0.000001ms", "audit": True}
    answer = openai.chat.completions.create(model="x", messages=CHAT, max_tokens=48, extra_body=more)
    timings = answer.model_extra["timings"]
    assert not timings["lossless"]
    assert 0.0 < timings["agreement"] < 1.0
    header = {"X-Balcony-Budget": "0.000001ms"}
    raw = openai.chat.completions.with_raw_response.create(model="x", messages=CHAT, max_tokens=8, extra_headers=header)
    assert json.loads(raw.text)["timings"]["budget"] == "1e-06ms"


def test_openai_logprobs(openai: Any) -> None:
    answer = openai.chat.completions.create(model="x", messages=CHAT, max_tokens=6, logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert len(content) == 6
    assert all(entry.token == entry.top_logprobs[0].token for entry in content)
    assert bytes(byte for entry in content for byte in entry.bytes).decode() == answer.choices[0].message.content
    completion = openai.completions.create(model="x", prompt="Once upon a time", max_tokens=6, logprobs=2)
    assert len(completion.choices[0].logprobs.token_logprobs) == 6


def test_openai_schemas(openai: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    answer = openai.chat.completions.create(model="x", messages=CHAT, max_tokens=60, response_format=form)
    assert set(json.loads(answer.choices[0].message.content)) == {"name", "age"}
    from pydantic import BaseModel, Field

    class Person(BaseModel):
        age: int = Field(ge=1, le=9)

    parsed = openai.chat.completions.parse(model="x", messages=CHAT, max_tokens=60, response_format=Person)
    assert isinstance(parsed.choices[0].message.parsed, Person)


def test_openai_tools(openai: Any) -> None:
    asked = {"model": "x", "messages": CHAT, "max_tokens": 60, "tools": [TOOL], "tool_choice": "required"}
    message = openai.chat.completions.create(**asked).choices[0].message
    (call,) = message.tool_calls
    assert call.function.name == "greet"
    assert set(json.loads(call.function.arguments)) == {"name", "age"}
    with openai.chat.completions.stream(**asked) as stream:
        stream.until_done()
        streamed = stream.get_final_completion().choices[0].message
    assert streamed.tool_calls[0].function.arguments == call.function.arguments
    # The conversation goes on with the call and what the tool said.
    said = {"role": "tool", "tool_call_id": call.id, "content": "Hello"}
    history = [*CHAT, message.model_dump(exclude_none=True), said]
    after = openai.chat.completions.create(model="x", messages=history, max_tokens=4)
    assert after.choices[0].message.content


def test_openai_responses(openai: Any) -> None:
    answer = openai.responses.create(model="stories", input="Tell a story.", max_output_tokens=16)
    assert answer.status == "incomplete"
    with openai.responses.stream(model="stories", input="Tell a story.", max_output_tokens=16) as stream:
        events = list(stream)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == answer.output_text
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.incomplete"


def test_openai_responses_with_forms_and_tools(openai: Any) -> None:
    form = {"type": "json_schema", "name": "person", "schema": SCHEMA}
    asked = {"model": "x", "input": "Tell a story.", "max_output_tokens": 60}
    answer = openai.responses.create(**asked, text={"format": form})
    assert answer.status == "completed"
    assert set(json.loads(answer.output_text)) == {"name", "age"}
    with openai.responses.stream(**asked, text={"format": form}) as stream:
        assert stream.until_done().get_final_response().output_text == answer.output_text
    asked |= {"tools": [{"type": "function", **TOOL["function"]}], "tool_choice": "required"}
    called = openai.responses.create(**asked)
    (call,) = called.output
    assert (call.type, call.name) == ("function_call", "greet")
    with openai.responses.stream(**asked) as stream:
        (streamed,) = stream.until_done().get_final_response().output
    assert streamed.arguments == call.arguments
    # The conversation goes on with the call and what the function said.
    said = {"type": "function_call_output", "call_id": call.call_id, "output": "Hello"}
    history = [{"role": "user", "content": "Tell a story."}, call.model_dump(exclude_none=True), said]
    assert openai.responses.create(model="x", input=history, max_output_tokens=4).output_text


def test_openai_models_and_errors(openai: Any) -> None:
    import openai as module

    assert [model.id for model in openai.models.list()] == ["stories"]
    assert openai.models.retrieve("stories").id == "stories"
    with pytest.raises(module.NotFoundError):
        openai.models.retrieve("other")
    with pytest.raises(module.BadRequestError, match="budget"):
        openai.chat.completions.create(model="x", messages=CHAT, extra_body={"budget": "soon"})


def test_openai_async(address: str) -> None:
    module = pytest.importorskip("openai")

    async def both() -> list[str]:
        async with module.AsyncOpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0) as client:

            async def one() -> str:
                stream = await client.chat.completions.create(model="x", messages=CHAT, max_tokens=24, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*(one() for _ in range(4)))

    texts = asyncio.run(both())
    assert len(set(texts)) == 1


def test_who_goes_away_frees_the_slot(openai: Any, service: Service) -> None:
    stream = openai.chat.completions.create(
        model="x", messages=CHAT, max_tokens=200, stream=True, seed=1, temperature=2
    )
    next(iter(stream))
    assert service.slots.busy == 1
    stream.close()
    gone = threading.Event()
    for _ in range(500):
        if not service.slots.busy:
            break
        gone.wait(0.01)
    assert service.slots.busy == 0
    assert not service.running


def test_langchain(address: str) -> None:
    module = pytest.importorskip("langchain_openai")
    model = module.ChatOpenAI(base_url=f"{address}/v1", api_key="any", model="stories", max_tokens=16, temperature=0)
    whole = model.invoke("Tell a story.")
    assert whole.usage_metadata["output_tokens"] == 16
    assert "".join(chunk.content for chunk in model.stream("Tell a story.")) == whole.content
    limits = module.ChatOpenAI(base_url=f"{address}/v1", api_key="any", model="stories", max_tokens=60, temperature=0)
    person = limits.with_structured_output({"title": "person", **SCHEMA}, method="json_schema").invoke("Who?")
    assert set(person) == {"name", "age"}
    called = limits.bind_tools([TOOL], tool_choice="greet").invoke("Hello")
    assert called.tool_calls[0]["name"] == "greet"


def test_llm(address: str, tmp_path: Path) -> None:
    pytest.importorskip("llm")
    listed = f"- model_id: edge\n  model_name: stories\n  api_base: {address}/v1\n"
    (tmp_path / "extra-openai-models.yaml").write_text(listed)
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "any"}
    command = [sys.executable, "-m", "llm", "-m", "edge", "-o", "max_tokens", "16", "-o", "temperature", "0"]
    said = [
        subprocess.run(
            [*command, *more, "Tell a story."], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for more in ((), ("--no-stream",))
    ]
    assert said[0] == said[1]
    assert len(said[0].split()) > 5


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(address: str) -> None:
    def ask(body: object) -> str:
        command = ["curl", "-sS", "-N", f"{address}/v1/chat/completions", "-d", json.dumps(body)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    whole = json.loads(ask({"messages": CHAT, "max_tokens": 8}))["choices"][0]["message"]["content"]
    lines = [line for line in ask({"messages": CHAT, "max_tokens": 8, "stream": True}).splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    deltas = [json.loads(line.removeprefix("data: "))["choices"][0]["delta"] for line in lines[:-1]]
    assert "".join(delta.get("content", "") for delta in deltas) == whole
