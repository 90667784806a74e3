"""Checks of options that several verbs share."""

from __future__ import annotations

import math

import typer


def finite(value: float | None) -> float | None:
    """Callback of an option: refuses nan and infinity, which no comparison with a bound does."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number")
    return value
