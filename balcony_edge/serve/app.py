"""The application: which path leads where, who may ask, and how much one may send."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from balcony_edge.errors import BalconyError
from balcony_edge.serve.access import Access, Write
from balcony_edge.serve.api import chat, completions, info, page, responses
from balcony_edge.serve.api.events import HEADERS, lines
from balcony_edge.serve.bodies import ChatBody, CompletionBody, ResponsesBody, Wanted
from balcony_edge.serve.failures import RefusedError
from balcony_edge.serve.reading import Endpoint, read, with_headers
from balcony_edge.serve.service import Service

# Seconds that running replies may take once the server is told to stop.
PATIENCE_S = 30.0


def application(
    service: Service,
    api_key: str | None = None,
    origins: Sequence[str] = (),
    patience_s: float = PATIENCE_S,
    log: Write | None = None,
) -> Starlette:
    """The server's application.

    ``api_key``: what clients must send as bearer; None: nothing. ``origins``: web pages of these origins may ask.
    ``log``: given a line of JSON for each request.
    """

    def answered(wanted: type[Wanted], module: Any, named: bool = False) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            body = with_headers(await read(request, wanted), request)
            if body.stream:
                chunks = lines(module.stream(service, body), ends=not named, named=named)
                return StreamingResponse(chunks, media_type="text/event-stream", headers=HEADERS)
            return JSONResponse((await module.answer(service, body)).body)

        return guarded(endpoint)

    def guarded(endpoint: Endpoint) -> Endpoint:
        async def checked(request: Request) -> Response:
            try:
                if api_key is not None and not _knows(request, api_key):
                    raise RefusedError(401, "the API key is missing or wrong", "authentication_error")
                return await endpoint(request)
            except (RefusedError, BalconyError, ValueError) as error:
                return RefusedError.of(error).response()

        return checked

    routes = [
        Route("/v1/chat/completions", answered(ChatBody, chat), methods=["POST"]),
        Route("/v1/completions", answered(CompletionBody, completions), methods=["POST"]),
        Route("/v1/responses", answered(ResponsesBody, responses, named=True), methods=["POST"]),
        *(
            Route(path, guarded(make(service)), methods=methods)
            for path, methods, make in (*info.ENDPOINTS, *page.ENDPOINTS)
        ),
        # The page asks for the key itself.
        *page.files(),
        # Whoever watches over the server needs no key.
        Route("/health", info.health(service)),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await service.close(patience_s)

    paths = frozenset(route.path for route in routes)
    middleware = [Middleware(Access, service.metrics.request, log, paths)] + [
        Middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"])
    ] * bool(origins)
    handlers: dict[Any, Any] = {404: _unknown, 405: _unknown, 500: _failed}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)


def _knows(request: Request, api_key: str) -> bool:
    given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
    return hmac.compare_digest(given, api_key.encode())


async def _unknown(request: Request, error: Any) -> Response:
    return RefusedError(error.status_code, f"{request.method} {request.url.path}: {error.detail}").response()


async def _failed(request: Request, error: Exception) -> Response:
    return RefusedError.of(error).response()
