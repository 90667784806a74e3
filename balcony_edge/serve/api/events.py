"""How answers travel: as one JSON object, or as server-sent events, one object each."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from balcony_edge.serve.failures import RefusedError

# The objects of a stream.
Chunks = AsyncIterator[Any]
DONE = "data: [DONE]\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class Answer:
    """One JSON object."""

    body: dict[str, Any]


async def lines(chunks: Chunks, ends: bool = True, named: bool = False) -> AsyncGenerator[str, None]:
    """The chunks as server-sent events; an error in the middle becomes one. ``ends``: with ``[DONE]`` at the end.

    ``named``: each event is named after its ``type``.
    """
    async with aclosing(cast("AsyncGenerator[Any, None]", chunks)) as running:
        try:
            async for one in running:
                head = f"event: {one['type']}\n" if named else ""
                yield f"{head}data: {json.dumps(one, ensure_ascii=False, separators=(',', ':'))}\n\n"
        except Exception as error:
            yield f"data: {json.dumps(RefusedError.of(error).body())}\n\n"
    if ends:
        yield DONE
