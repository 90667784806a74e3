"""The budget that a user sets: what one token may cost on average.

Forms: ``25ms`` (mean milliseconds a token), ``40tok/s`` (the same as a rate), ``full`` (no limit: lossless).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

FORMS = "25ms (mean per token), 40tok/s, full"
_TERM = re.compile(r"(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*(?P<unit>[^\d\s].*)", re.IGNORECASE)


class BudgetSyntaxError(ValueError):
    """A text that is no budget. ``column`` counts characters from 0 to the first that does not fit."""

    def __init__(self, text: str, column: int, why: str) -> None:
        self.text = text
        self.column = column
        super().__init__(f"cannot read the budget {text!r} at character {column + 1}: {why}; forms: {FORMS}")


@dataclass(frozen=True)
class Budget:
    """``latency_ms``: mean milliseconds that a token may take; None for no limit."""

    latency_ms: float | None = None

    @classmethod
    def parse(cls, text: str | Budget | None) -> Budget:
        """Read a budget; None and "full" are no limit. Raises BudgetSyntaxError."""
        if isinstance(text, Budget):
            return text
        if text is None or text.strip().lower() == "full":
            return cls()
        stripped = text.strip()
        lead = len(text) - len(text.lstrip())
        match = _TERM.fullmatch(stripped)
        if not match:
            number = re.match(r"\d+(\.\d+)?", stripped)
            column = lead + (number.end() if number else 0)
            raise BudgetSyntaxError(text, column, "a unit is missing" if number else "a number is expected")
        value, unit = float(match["number"]), match["unit"].lower().replace(" ", "")
        if not math.isfinite(value) or value <= 0:
            raise BudgetSyntaxError(text, lead, "the number must be above zero")
        if unit == "ms":
            return cls(value)
        if unit == "tok/s":
            return cls(1e3 / value)
        raise BudgetSyntaxError(text, lead + match.start("unit"), f"unknown unit {match['unit']!r}")

    def __str__(self) -> str:
        return "full" if self.latency_ms is None else f"{self.latency_ms!r}ms"
