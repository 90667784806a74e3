"""``balcony-edge profile``: measures this machine and writes its device profile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from balcony_edge.cli.options import Threads


def profile(
    bundle: Annotated[
        str | None, typer.Argument(help="The bundle folder whose stages to measure. Default: the built-in demo.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write the profile to this file instead of stdout.")
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Write the profile to where doctor and sessions find it.")
    ] = False,
    provider: Annotated[
        str,
        typer.Option(envvar="BALCONY_PROVIDER", help="auto, cpu or cuda. cuda is an error if it does not work here."),
    ] = "auto",
    threads: Threads = None,
    allow_clocks: Annotated[
        bool,
        typer.Option(
            "--allow-clocks",
            help="Set the device to each of its clocks, measure tokens and watts at each, and put it back. "
            "Needs root, and a sensor of power.",
        ),
    ] = False,
    base: Annotated[
        str | None, typer.Option(help="The device profile to start from. Default: the one that fits.")
    ] = None,
) -> None:
    """Measure this machine and write its device profile as TOML.

    It measures memory bandwidth, the cost of every stage, and energy. That takes about half a minute: let nothing else
    run meanwhile. The file names no serial number and no user, so you can share it.
    """
    from balcony_edge.errors import DeviceProfileError
    from balcony_edge.files.writing import require
    from balcony_edge.profiling.build import install as write
    from balcony_edge.profiling.build import measure_device
    from balcony_edge.telemetry.device_profile import profile_folder
    from balcony_profiles import to_toml

    if out is not None:
        require(out, DeviceProfileError, "give -o another place")
    folder = profile_folder()
    if install and folder is None:
        raise DeviceProfileError("there is no place for it: this user has no home", "set BALCONY_PROFILE_DIR=FOLDER")
    measured = measure_device(
        bundle,
        provider=provider,
        threads=threads,
        profile=base,
        allow_clocks=allow_clocks,
        say=lambda what: print(f"measuring: {what}", file=sys.stderr, flush=True),
    )
    text = to_toml(measured)
    own = folder / f"{measured.name}.toml" if install and folder is not None else None
    places = [place for place in (out, own) if place]
    for place in places:
        write(text, place)
        print(f"written to {place}", file=sys.stderr)
    if not places:
        typer.echo(text, nl=False)
