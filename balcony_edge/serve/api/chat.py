"""``POST /v1/chat/completions``: conversations, streamed or whole, with tools and response formats."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from balcony_edge.decoding.reply import Token
from balcony_edge.serve.api.events import Answer, Chunks
from balcony_edge.serve.api.figures import finish_reason, source, timings, usage
from balcony_edge.serve.api.logprobs import of_chat
from balcony_edge.serve.api.tools import ToolUse
from balcony_edge.serve.bodies import ChatBody
from balcony_edge.serve.failures import RefusedError
from balcony_edge.serve.running import Asked, Done
from balcony_edge.serve.service import Collected, Service, chunk

KIND = "chat.completion"


def prepare(service: Service, body: ChatBody) -> tuple[list[Asked], ToolUse | None]:
    """The replies that a body asks for, and how they may call tools. Raises RefusedError and BalconyErrors."""
    if body.top_logprobs and not body.logprobs:
        raise RefusedError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    messages = [message.plain() for message in body.messages]
    use = ToolUse.of(service.codec, body.tools, body.tool_choice)
    if use is not None and body.response_format is not None and body.response_format.type != "text":
        raise RefusedError(400, "tools and response_format exclude each other", param="response_format")
    if service.codec.chat_template is None:
        raise RefusedError(400, "this model has no chat template: use /v1/completions", param="messages")
    service.slots.check()
    ids = service.codec.encode_chat(messages) if use is None else use.encode(messages)
    most = body.max_completion_tokens or body.max_tokens
    top = (body.top_logprobs or 0) if body.logprobs else None
    asked = []
    for number in range(body.n or 1):
        limits = service.constraint(body.response_format) if use is None else use.grammar(service.grammar)
        asked.append(service.asked(body, ids, most, number=number, top_logprobs=top, constraint=limits))
    return asked, use


async def answer(service: Service, body: ChatBody) -> Answer:
    """The whole answer."""
    asked, use = prepare(service, body)
    found = await service.collect_all(asked)
    ident, created = service.new_id("chatcmpl"), int(time.time())
    choices = [_choice(service, body, index, one, use) for index, one in enumerate(found)]
    reports = [one.report for one in found]
    more = {"usage": usage(reports), "timings": timings(reports[0], service.power_w), "system_fingerprint": None}
    return Answer(chunk(KIND, ident, service.name, created, choices, **more))


def _choice(service: Service, body: ChatBody, index: int, found: Collected, use: ToolUse | None) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": found.text, "refusal": None}
    reason = finish_reason(found.report)
    calls = use.calls(found.text) if use is not None else []
    if calls:
        message |= {"content": None, "tool_calls": calls}
        reason = "tool_calls"
    logprobs = of_chat(service.bytes_of, found.tokens) if body.logprobs else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def stream(service: Service, body: ChatBody) -> Chunks:
    """The answer in chunks. What can be refused is refused here, before the first one."""
    asked, use = prepare(service, body)
    return _chunks(service, body, asked, use)


async def _chunks(service: Service, body: ChatBody, asked: list[Asked], use: ToolUse | None) -> AsyncIterator[Any]:
    ident, created = service.new_id("chatcmpl"), int(time.time())
    wants_usage = body.stream_options is not None and body.stream_options.include_usage
    more: dict[str, Any] = {"usage": None} if wants_usage else {}

    def frame(index: int, delta: dict[str, Any], reason: str | None = None, **own: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason, **own}
        return chunk(f"{KIND}.chunk", ident, service.name, created, [choice], **more)

    reports = []
    for index, one in enumerate(asked):
        yield frame(index, {"role": "assistant", "content": ""})
        held = ""
        async for item in service.stream(one, ident):
            if isinstance(item, Done):
                calls = use.calls(held) if use is not None else []
                if calls:
                    listed = [{"index": place, **call} for place, call in enumerate(calls)]
                    yield frame(index, {"tool_calls": listed})
                elif held:
                    yield frame(index, {"content": held})
                reports.append(item.report)
                reason = "tool_calls" if calls else finish_reason(item.report)
                last = frame(index, {}, reason)
                yield {**last, "timings": timings(item.report, service.power_w)}
            elif use is not None and use.may_call(held + item.text):
                held += item.text
            else:
                text, held = held + item.text, ""
                yield frame(index, {"content": text}, **_own(service, body, item))
    if wants_usage:
        yield chunk(f"{KIND}.chunk", ident, service.name, created, [], usage=usage(reports))


def _own(service: Service, body: ChatBody, token: Token) -> dict[str, Any]:
    """What a chunk says of its token beside its text."""
    found: dict[str, Any] = {"balcony": source(token)}
    if body.logprobs:
        found["logprobs"] = of_chat(service.bytes_of, [token])
    return found
