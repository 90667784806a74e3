"""What is written and counted of every request: a line of JSON, and a counter by path and status."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from balcony_edge.decoding.report import Report

# The reports of the replies that the request at hand has brought.
replies: ContextVar[list[Report] | None] = ContextVar("replies", default=None)
Count = Callable[[str, int], None]
Write = Callable[[str], None]


def note(report: Report) -> None:
    """A reply of the request at hand has ended."""
    if (found := replies.get()) is not None:
        found.append(report)


class Access:
    """Around an application. ``count``: told of path and status. ``write``: given a line of JSON for each request.

    A path that leads nowhere counts as "other", so that strangers cannot make counters without end.
    """

    def __init__(self, app: ASGIApp, count: Count, write: Write | None, paths: frozenset[str]) -> None:
        self._app, self._count, self._write, self._paths = app, count, write, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0
        found: list[Report] = []
        mark = replies.set(found)

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            replies.reset(mark)
            path = scope["path"]
            self._count(path if path in self._paths else "other", status)
            if self._write is not None:
                self._write(json.dumps(_line(scope, status, (time.perf_counter() - begun) * 1e3, found)))


def _line(scope: Scope, status: int, elapsed_ms: float, found: list[Report]) -> dict[str, Any]:
    """What is written. ``status`` 0: the client went away before an answer. Prompts and texts are never written."""
    client = scope.get("client")
    line: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "client": client[0] if client else None,
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "elapsed_ms": round(elapsed_ms, 1),
    }
    if found:
        line["replies"] = [
            {
                "prompt_tokens": one.prompt_tokens,
                "reused_tokens": one.reused_tokens,
                "tokens": one.tokens,
                "ended_by": one.ended_by,
                "budget": one.budget,
                "mean_ms": None if one.mean_ms is None else round(one.mean_ms, 3),
                "depth_counts": {str(depth): count for depth, count in sorted(one.depth_counts.items())},
                "agreement": one.agreement,
            }
            for one in found
        ]
    return line
