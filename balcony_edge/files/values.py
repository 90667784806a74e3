"""Values of a document from elsewhere: of the right type and within bounds, or a ValueError that names them."""

from __future__ import annotations

import math
from typing import Any

# Beyond these no time, size or count of a device makes sense; sums and products of such numbers stay finite.
LARGE = 1e15
SMALL = 1e-15


def number(value: Any, name: str, least: float = -LARGE, most: float = LARGE) -> float:
    """The value as a float if it is a number from ``least`` to ``most``. Raises ValueError."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
    if not fits or not math.isfinite(value):
        raise ValueError(f"{name} is {brief(value)}, no number from {least:g} to {most:g}")
    return float(value)


def optional(value: Any, name: str, least: float = -LARGE, most: float = LARGE) -> float | None:
    """The same, or None for None."""
    return None if value is None else number(value, name, least, most)


def whole(value: Any, name: str, least: int = 0, most: int = 1 << 53) -> int:
    """The value if it is a whole number from ``least`` to ``most``. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} is {brief(value)}, no whole number from {least} to {most}")
    return value


def flag(value: Any, name: str) -> bool:
    """The value if it is true or false. Raises ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {brief(value)}, neither true nor false")
    return value


def text(value: Any, name: str, most: int = 1000) -> str:
    """The value if it is a text of at most ``most`` characters. Raises ValueError."""
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"{name} is {brief(value)}, no text of at most {most} characters")
    return value


def listed(value: Any, name: str, most: int = 1 << 24) -> list[Any]:
    """The value if it is a list of at most ``most`` entries. Raises ValueError."""
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"{name} is {brief(value)}, no list of at most {most} entries")
    return value


def mapping(value: Any, name: str) -> dict[str, Any]:
    """The value if it is a JSON object. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {brief(value)}, no JSON object")
    return value


def brief(value: Any) -> str:
    """A value for a message, not longer than a line."""
    if isinstance(value, dict | list):
        return f"a {type(value).__name__} of {len(value)}"
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:60]}…"
