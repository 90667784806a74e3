"""``POST /v1/completions``: texts that are gone on with, streamed or whole."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from balcony_edge.serve.api.events import Answer, Chunks
from balcony_edge.serve.api.figures import finish_reason, source, timings, usage
from balcony_edge.serve.api.logprobs import of_completion
from balcony_edge.serve.bodies import CompletionBody
from balcony_edge.serve.failures import RefusedError
from balcony_edge.serve.running import Asked, Done
from balcony_edge.serve.service import Service, chunk

KIND = "text_completion"
MOST_PROMPTS = 64


def prepare(service: Service, body: CompletionBody) -> list[Asked]:
    """The replies that a body asks for: ``n`` to each prompt. Raises RefusedError and BalconyErrors."""
    if body.suffix:
        raise RefusedError(400, "suffix is not supported: this model goes on with texts", param="suffix")
    if body.best_of not in (None, body.n or 1):
        raise RefusedError(400, "best_of is not supported", param="best_of")
    if body.echo:
        raise RefusedError(400, "echo is not supported", param="echo")
    service.slots.check()
    prompts = _prompts(service, body)
    asked = []
    for ids in prompts:
        for number in range(body.n or 1):
            limits = service.constraint(body.response_format)
            asked.append(
                service.asked(
                    body, ids, body.max_tokens or 16, number=number, top_logprobs=body.logprobs, constraint=limits
                )
            )
    return asked


def _prompts(service: Service, body: CompletionBody) -> list[list[int]]:
    """The ids of all prompts: texts, or token ids as they are."""
    given: Any = body.prompt
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not 1 <= len(given) <= MOST_PROMPTS:
        raise RefusedError(400, f"prompt holds {len(given)} texts; 1 to {MOST_PROMPTS} are allowed", param="prompt")
    codec = service.codec
    found = [codec.encode(one) if isinstance(one, str) else codec.check(list(one)) for one in given]
    if not all(found):
        raise RefusedError(400, "a prompt has no tokens", param="prompt")
    return found


async def answer(service: Service, body: CompletionBody) -> Answer:
    """The whole answer."""
    found = await service.collect_all(prepare(service, body))
    choices = [
        {
            "index": index,
            "text": one.text,
            "logprobs": None if body.logprobs is None else of_completion(service.bytes_of, one.tokens),
            "finish_reason": finish_reason(one.report),
        }
        for index, one in enumerate(found)
    ]
    reports = [one.report for one in found]
    more = {"usage": usage(reports), "timings": timings(reports[0], service.power_w)}
    return Answer(chunk(KIND, service.new_id("cmpl"), service.name, int(time.time()), choices, **more))


def stream(service: Service, body: CompletionBody) -> Chunks:
    """The answer in chunks. What can be refused is refused here, before the first one."""
    return _chunks(service, body, prepare(service, body))


async def _chunks(service: Service, body: CompletionBody, asked: list[Asked]) -> AsyncIterator[Any]:
    ident, created = service.new_id("cmpl"), int(time.time())
    wants_usage = body.stream_options is not None and body.stream_options.include_usage
    more: dict[str, Any] = {"usage": None} if wants_usage else {}
    reports = []
    for index, one in enumerate(asked):
        written = 0
        async for item in service.stream(one, ident):
            choice: dict[str, Any] = {"index": index, "text": "", "logprobs": None, "finish_reason": None}
            if isinstance(item, Done):
                reports.append(item.report)
                choice["finish_reason"] = finish_reason(item.report)
                last = chunk(KIND, ident, service.name, created, [choice], **more)
                yield {**last, "timings": timings(item.report, service.power_w)}
                continue
            choice |= {"text": item.text, "balcony": source(item)}
            if body.logprobs is not None:
                choice["logprobs"] = of_completion(service.bytes_of, [item], written)
            written += len(item.text)
            yield chunk(KIND, ident, service.name, created, [choice], **more)
    if wants_usage:
        yield chunk(KIND, ident, service.name, created, [], usage=usage(reports))
