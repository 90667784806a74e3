"""Errors as clients of OpenAI's interface expect them: a status, and a JSON object that says what is wrong."""

from __future__ import annotations

from pydantic import ValidationError
from starlette.responses import JSONResponse

from balcony_edge.errors import BalconyError, BudgetError, PromptError
from balcony_edge.serve.slots import BusyError


class RefusedError(Exception):
    """A request that cannot be answered. ``param``: the field that is to blame."""

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param = status, message, kind, param

    @classmethod
    def of(cls, error: BaseException) -> RefusedError:
        """Any error, as one that can be told."""
        if isinstance(error, cls):
            return error
        if isinstance(error, BusyError):
            return cls(503 if "shutting down" in error.message else 429, str(error), "overloaded_error")
        if isinstance(error, BudgetError):
            return cls(400, str(error), param="budget")
        if isinstance(error, PromptError):
            return cls(400, str(error))
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            return cls(400, f"{place or 'the body'}: {first['msg']}", param=place or None)
        if isinstance(error, BalconyError):
            return cls(500, str(error), "server_error")
        return cls(500, "the server failed", "server_error")

    def body(self) -> dict[str, dict[str, object]]:
        """The JSON of the answer, also where it goes into a stream that has begun."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}}

    def response(self) -> JSONResponse:
        """The answer."""
        headers = {"Retry-After": "1"} if self.status in (429, 503) else None
        return JSONResponse(self.body(), self.status, headers)
