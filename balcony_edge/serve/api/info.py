"""Endpoints that say what the server has and how it is; and the budget, read and set while tokens stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from balcony_edge.control.budgets import parse_budget
from balcony_edge.control.profile import cpu_model
from balcony_edge.serve.bodies import BudgetBody, TextBody, TokensBody
from balcony_edge.serve.failures import RefusedError
from balcony_edge.serve.metrics import CONTENT_TYPE
from balcony_edge.serve.reading import Endpoint, read
from balcony_edge.serve.service import Service


def health(service: Service) -> Endpoint:
    """``GET /health``: 200 while the server takes requests."""

    async def endpoint(_: Request) -> Response:
        closing = service.slots.is_closing
        return JSONResponse({"status": "shutting down" if closing else "ok"}, 503 if closing else 200)

    return endpoint


def models(service: Service) -> Endpoint:
    """``GET /v1/models``, and one of them."""

    async def endpoint(request: Request) -> Response:
        manifest = service.loaded.bundle.manifest
        listed = {
            "id": service.name,
            "object": "model",
            "created": service.started,
            "owned_by": manifest.base.model,
            "depths": list(service.loaded.bundle.depths),
            "context": service.slots.slots[0].session.ladder.context,
        }
        if (wanted := request.path_params.get("name")) is None:
            return JSONResponse({"object": "list", "data": [listed]})
        if wanted != service.name:
            raise RefusedError(404, f"there is no model {wanted!r} here, only {service.name!r}", param="model")
        return JSONResponse(listed)

    return endpoint


def props(service: Service) -> Endpoint:
    """``GET /props``: what is loaded, and how."""

    async def endpoint(_: Request) -> Response:
        manifest, loaded, costs = service.loaded.bundle.manifest, service.loaded, service.costs_ms
        return JSONResponse(
            {
                "model": service.name,
                "about": f"{manifest.base.model}, {manifest.formats.base}, {loaded.runtime.provider}, {cpu_model()}",
                "costs": {"least_ms": min(costs.values()), "whole_ms": max(costs.values())},
                "base": manifest.base.model,
                "digest": manifest.digest,
                "precision": manifest.formats.base,
                "provider": loaded.runtime.provider,
                "threads": loaded.runtime.threads,
                "depths": list(loaded.bundle.depths),
                "exactness": manifest.exactness,
                "drafts_are_exact": loaded.profile.bit_exact,
                "total_slots": service.slots.count,
                "queue": service.slots.queue,
                "budget": str(service.slots.budget),
                "chats": service.codec.chat_template is not None,
            }
        )

    return endpoint


def slots(service: Service) -> Endpoint:
    """``GET /slots``: who is busy."""

    async def endpoint(_: Request) -> Response:
        listed = [
            {"id": slot.number, "is_processing": slot.is_busy, "n_past": slot.session.ladder.length}
            for slot in service.slots.slots
        ]
        return JSONResponse({"slots": listed, "waiting": service.slots.waiting})

    return endpoint


def budget(service: Service) -> Endpoint:
    """``GET`` and ``PUT /v1/budget``: the budget of all slots."""

    async def endpoint(request: Request) -> Response:
        if request.method != "GET":
            body = await read(request, BudgetBody)
            wanted = parse_budget(body.budget)
            slot = None if body.reply is None else service.running.get(body.reply)
            if body.reply is not None and slot is None:
                raise RefusedError(404, f"no reply {body.reply!r} is running", param="reply")
            service.slots.set_budget(wanted, slot)
        governors = [slot.session.governor for slot in service.slots.slots]
        found: dict[str, Any] = {
            "budget": str(service.slots.budget),
            "slots": [
                {"price": one.price, "overspend_ms": one.overspend_ms, "lossless": one.lossless} for one in governors
            ],
        }
        return JSONResponse(found)

    return endpoint


def tokenize(service: Service) -> Endpoint:
    """``POST /tokenize``: the ids of a text."""

    async def endpoint(request: Request) -> Response:
        body = await read(request, TextBody)
        text = body.content if body.content is not None else body.prompt
        if text is None:
            raise RefusedError(400, "there is no text: give content", param="content")
        codec = service.codec
        ids = codec.encode(text) if body.add_special else codec.check(codec.encode_bare(text))
        return JSONResponse(
            {"tokens": ids, "count": len(ids), "max_model_len": service.slots.slots[0].session.ladder.context}
        )

    return endpoint


def detokenize(service: Service) -> Endpoint:
    """``POST /detokenize``: the text of ids."""

    async def endpoint(request: Request) -> Response:
        ids = service.codec.check((await read(request, TokensBody)).tokens)
        text = service.codec.decode(ids)
        return JSONResponse({"content": text, "prompt": text})

    return endpoint


def metrics(service: Service) -> Endpoint:
    """``GET /metrics``: for Prometheus."""

    async def endpoint(_: Request) -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return endpoint


# Path, methods, and what makes the endpoint.
ENDPOINTS: tuple[tuple[str, list[str], Callable[[Service], Endpoint]], ...] = (
    ("/v1/models", ["GET"], models),
    ("/v1/models/{name:path}", ["GET"], models),
    ("/v1/budget", ["GET", "PUT", "POST"], budget),
    ("/metrics", ["GET"], metrics),
    ("/props", ["GET"], props),
    ("/slots", ["GET"], slots),
    ("/tokenize", ["POST"], tokenize),
    ("/detokenize", ["POST"], detokenize),
)
