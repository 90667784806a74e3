"""The bodies of requests, read within bounds and checked."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from balcony_edge.serve.bodies import Wanted
from balcony_edge.serve.failures import RefusedError

Endpoint = Callable[[Request], Awaitable[Response]]
Model = TypeVar("Model", bound=BaseModel)
# The largest body, in bytes.
MOST_BYTES = 4 << 20


async def read(request: Request, wanted: type[Model]) -> Model:
    """The body of a request, checked. Raises RefusedError, pydantic's ValidationError."""
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > MOST_BYTES:
            raise RefusedError(413, f"the body is larger than {MOST_BYTES} bytes")
    try:
        given = json.loads(bytes(content))
    except (ValueError, RecursionError) as error:  # also for numbers of too many digits
        raise RefusedError(400, f"the body is no JSON: {error}") from error
    return wanted.model_validate(given)


def with_headers(body: Wanted, request: Request) -> Wanted:
    """The body, with what headers say instead of its fields: for clients that cannot add fields."""
    given = {
        "budget": request.headers.get("x-balcony-budget"),
        "min_agreement": request.headers.get("x-balcony-min-agreement"),
    }
    named = {name: value for name, value in given.items() if value is not None and getattr(body, name) is None}
    return type(body).model_validate({**body.model_dump(by_alias=True, exclude_unset=True), **named}) if named else body
