"""``balcony-edge profile``: measure this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def profile(
    bundle: Annotated[
        str | None, typer.Argument(help="Whose stages to measure: a bundle folder; none: the embedded demo.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write it to this file and not to stdout.")] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Write it where doctor and sessions find this machine's profile.")
    ] = False,
    provider: Annotated[
        str, typer.Option(envvar="BALCONY_PROVIDER", help="auto, cpu or cuda; cuda is an error where it is not had.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(envvar="BALCONY_THREADS", min=1, help="CPU threads; default: physical cores.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="The profile to start from; default: the one that fits.")] = None,
) -> None:
    """Measure this machine (memory bandwidth, every stage's cost, energy) and write its profile as TOML.

    Takes about half a minute; let nothing else run meanwhile. The file names no serial number and no user: share it.
    """
    from balcony_edge.profiling.build import install as write
    from balcony_edge.profiling.build import measure_device
    from balcony_edge.telemetry.profile import profile_folder
    from balcony_profiles import to_toml

    measured = measure_device(
        bundle,
        provider=provider,
        threads=threads,
        profile=base,
        say=lambda what: print(f"measuring: {what}", file=sys.stderr, flush=True),
    )
    text = to_toml(measured)
    places = [place for place in (out, profile_folder() / f"{measured.name}.toml" if install else None) if place]
    for place in places:
        write(text, place)
        print(f"written to {place}", file=sys.stderr)
    if not places:
        typer.echo(text, nl=False)
