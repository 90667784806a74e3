"""The page at ``/``, and what it asks beside the replies: live figures of the device, and whether a text is exact."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from balcony_controller import FixedDepth
from balcony_edge.decoding.stops import Stops
from balcony_edge.engine.sampling import Sampler
from balcony_edge.serve.api.events import HEADERS, lines
from balcony_edge.serve.bodies import CheckBody
from balcony_edge.serve.failures import RefusedError
from balcony_edge.serve.metrics import SIGNALS
from balcony_edge.serve.reading import Endpoint, read
from balcony_edge.serve.recorded_page import content
from balcony_edge.serve.running import Asked
from balcony_edge.serve.service import Service

FILES = {"index.html": "text/html", "style.css": "text/css"}
FILES |= dict.fromkeys(("app.js", "lanes.js", "strips.js"), "text/javascript")
# Nothing from elsewhere, and nobody may frame it.
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
# Seconds from one line of live figures to the next.
EVERY_S = 0.5


def files() -> list[Route]:
    """The page's own files."""
    return [Route("/", _file("index.html")), *(Route(f"/page/{name}", _file(name)) for name in FILES)]


def _file(name: str) -> Endpoint:
    async def endpoint(_: Request) -> Response:
        return Response(content(name), media_type=FILES[name], headers={"Content-Security-Policy": POLICY})

    return endpoint


def device(service: Service) -> Endpoint:
    """``GET /v1/device``: the device's signals, price and debt, as server-sent events."""

    async def readings() -> AsyncIterator[dict[str, Any]]:
        while not service.slots.is_closing:
            yield _now(service)
            await asyncio.sleep(EVERY_S)

    async def endpoint(_: Request) -> Response:
        return StreamingResponse(lines(readings(), ends=False), media_type="text/event-stream", headers=HEADERS)

    return endpoint


def _now(service: Service) -> dict[str, Any]:
    snapshot = service.loaded.sensors.snapshot
    found: dict[str, Any] = {name: getattr(snapshot, name).value for name in SIGNALS}
    # Of the slot whose budget binds most.
    governors = [slot.session.governor for slot in service.slots.slots]
    strictest = max(governors, key=lambda one: one.price)
    return found | {"price": strictest.price, "overspend_ms": strictest.overspend_ms, "busy": service.slots.busy}


def check(service: Service) -> Endpoint:
    """``POST /v1/check``: decode a prompt greedily at plain full depth, without drafts; is that the text?"""

    async def endpoint(request: Request) -> Response:
        body = await read(request, CheckBody)
        codec = service.codec
        if body.messages is not None:
            ids = codec.encode_chat([message.plain() for message in body.messages])
        elif body.prompt is not None:
            ids = codec.encode(body.prompt)
        else:
            raise RefusedError(400, "give messages or a prompt", param="prompt")
        plain = FixedDepth(service.loaded.bundle.depths[-1])
        found = await service.collect(Asked(ids, body.max_tokens, Sampler(), Stops(), decider=plain))
        hashes = [hashlib.sha256(text.encode()).hexdigest() for text in (body.text, found.text)]
        return JSONResponse({"same": hashes[0] == hashes[1], "sha256": hashes[0], "full_depth_sha256": hashes[1]})

    return endpoint


ENDPOINTS: tuple[tuple[str, list[str], Callable[[Service], Endpoint]], ...] = (
    ("/v1/device", ["GET"], device),
    ("/v1/check", ["POST"], check),
)
