"""Arguments that several verbs share, and checks of options."""

from __future__ import annotations

import math
from typing import Annotated

import typer

BundleName = Annotated[
    str | None,
    typer.Argument(
        help="A bundle folder, a Hub id (owner/name), or a name that models lists. Default: the built-in demo."
    ),
]
Threads = Annotated[
    int | None, typer.Option(envvar="BALCONY_THREADS", min=1, help="CPU threads. Default: one per physical core.")
]
Provider = Annotated[str, typer.Option(envvar="BALCONY_PROVIDER", help="auto, cpu or cuda.")]

AllowClocks = Annotated[
    bool,
    typer.Option(
        "--allow-clocks", help="Let the budget choose the device's clock too, and put it back at the end. Needs root."
    ),
]


def finite(value: float | None) -> float | None:
    """Callback of an option: refuses nan and infinity, which no comparison with a bound does."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number")
    return value
