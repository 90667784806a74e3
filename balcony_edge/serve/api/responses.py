"""``POST /v1/responses``: OpenAI's newer interface, over chat completions: texts, formats and calls of functions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from balcony_edge.decoding.report import Report
from balcony_edge.serve.api import chat
from balcony_edge.serve.api.events import Answer, Chunks
from balcony_edge.serve.api.figures import finish_reason, timings, usage
from balcony_edge.serve.api.tools import ToolUse
from balcony_edge.serve.bodies import ChatBody, ResponsesBody
from balcony_edge.serve.failures import RefusedError
from balcony_edge.serve.running import Asked, Done
from balcony_edge.serve.service import Service

Item = dict[str, Any]
OWN = {"input", "instructions", "max_output_tokens", "n", "text", "tools", "tool_choice"}


def _as_chat(body: ResponsesBody) -> ChatBody:
    """The same request as a chat. Raises RefusedError, pydantic's ValidationError."""
    given = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    messages = [_message(item) for item in given]
    if body.instructions:
        messages.insert(0, {"role": "system", "content": body.instructions})
    fields: Item = {"messages": messages, "max_completion_tokens": body.max_output_tokens}
    if body.text is not None:
        form = body.text.format
        fields["response_format"] = {**form, "json_schema": form} if form.get("type") == "json_schema" else form
    if body.tools is not None:
        fields["tools"] = [{"type": tool.get("type"), "function": tool} for tool in body.tools]
    if body.tool_choice is not None:
        named = isinstance(body.tool_choice, dict)
        fields["tool_choice"] = {"type": "function", "function": body.tool_choice} if named else body.tool_choice
    return ChatBody.model_validate({**body.model_dump(exclude=OWN, exclude_none=True), **fields})


def _message(item: Item) -> Item:
    """An item of the input as a chat's message."""
    kind = item.get("type", "message")
    if kind == "message":
        return item
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        return {
            "role": "assistant",
            "tool_calls": [{"id": item.get("call_id"), "type": "function", "function": function}],
        }
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
    raise RefusedError(400, f"the input has an item of type {kind!r}, which this server does not read", param="input")


def _items(ident: str, text: str, use: ToolUse | None) -> list[Item]:
    """The output: calls of functions, or one message."""
    calls = use.calls(text) if use is not None else []
    if calls:
        return [
            {
                "type": "function_call",
                "id": f"fc_{place}{ident[4:]}",
                "call_id": call["id"],
                "name": call["function"]["name"],
                "arguments": call["function"]["arguments"],
                "status": "completed",
            }
            for place, call in enumerate(calls)
        ]
    return [{**_open_message(ident), "status": "completed", "content": [_part(text)]}]


def _open_message(ident: str) -> Item:
    return {"type": "message", "id": f"msg{ident[4:]}", "role": "assistant", "status": "in_progress", "content": []}


def _part(text: str) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response(
    service: Service, ident: str, created: int, output: list[Item] | None = None, report: Report | None = None
) -> Item:
    """The object ``response``; without a report it is still in progress."""
    cut = report is not None and finish_reason(report) == "length"
    found: Item = {
        "id": ident,
        "object": "response",
        "created_at": created,
        "status": "in_progress" if report is None else "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "error": None,
        "instructions": None,
        "metadata": {},
        "model": service.name,
        "output": output or [],
        "parallel_tool_calls": False,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }
    if report is not None:
        counted = usage([report])
        found["usage"] = {
            "input_tokens": counted["prompt_tokens"],
            "input_tokens_details": counted["prompt_tokens_details"],
            "output_tokens": counted["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counted["total_tokens"],
        }
        found["timings"] = timings(report, service.power_w)
    return found


async def answer(service: Service, body: ResponsesBody) -> Answer:
    """The whole answer."""
    asked, use = chat.prepare(service, _as_chat(body))
    found = await service.collect(asked[0])
    ident = service.new_id("resp")
    return Answer(_response(service, ident, int(time.time()), _items(ident, found.text, use), found.report))


def stream(service: Service, body: ResponsesBody) -> Chunks:
    """The answer as events. What can be refused is refused here, before the first one."""
    asked, use = chat.prepare(service, _as_chat(body))
    return _events(service, asked[0], use)


async def _events(service: Service, asked: Asked, use: ToolUse | None) -> AsyncIterator[Any]:
    ident, created = service.new_id("resp"), int(time.time())
    number = 0

    def numbered(event: Item) -> Item:
        nonlocal number
        number += 1
        return {**event, "sequence_number": number - 1}

    begun = _response(service, ident, created)
    yield numbered({"type": "response.created", "response": begun})
    yield numbered({"type": "response.in_progress", "response": begun})
    said = told = ""
    async for token in service.stream(asked, ident):
        if not isinstance(token, Done):
            said += token.text
            # What may become a call is held back.
            if said and (told or use is None or not use.may_call(said)):
                for event in _more(ident, told, said):
                    yield numbered(event)
                told = said
            continue
        items = _items(ident, said, use)
        for event in _ending(ident, items, told):
            yield numbered(event)
        whole = _response(service, ident, created, items, token.report)
        yield numbered({"type": f"response.{whole['status']}", "response": whole})


def _more(ident: str, told: str, said: str) -> Iterator[Item]:
    """The text has grown."""
    if not told:
        item = _open_message(ident)
        yield {"type": "response.output_item.added", "output_index": 0, "item": item}
        yield {"type": "response.content_part.added", **_place(ident), "part": _part("")}
    if delta := said[len(told) :]:
        yield {"type": "response.output_text.delta", **_place(ident), "delta": delta, "logprobs": []}


def _ending(ident: str, items: list[Item], told: str) -> Iterator[Item]:
    """The output is whole."""
    for place, item in enumerate(items):
        where = {"item_id": item["id"], "output_index": place}
        if item["type"] == "function_call":
            yield {"type": "response.output_item.added", "output_index": place, "item": {**item, "arguments": ""}}
            yield {"type": "response.function_call_arguments.delta", **where, "delta": item["arguments"]}
            ended = {"name": item["name"], "arguments": item["arguments"]}
            yield {"type": "response.function_call_arguments.done", **where, **ended}
        else:
            text = item["content"][0]["text"]
            if text != told or not told:
                yield from _more(ident, told, text)
            yield {"type": "response.output_text.done", **_place(ident), "text": text, "logprobs": []}
            yield {"type": "response.content_part.done", **_place(ident), "part": item["content"][0]}
        yield {"type": "response.output_item.done", "output_index": place, "item": item}


def _place(ident: str) -> Item:
    return {"item_id": f"msg{ident[4:]}", "output_index": 0, "content_index": 0}
