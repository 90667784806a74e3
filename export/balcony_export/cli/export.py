"""``balcony-edge export``: a frozen base and its exits to a bundle."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from balcony_edge.bundle import Cache, Exactness, Precision, Provider
from balcony_export.extras import require_workstation


def export(
    model: Annotated[str, typer.Argument(help="A Hugging Face model folder or Hub id.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The bundle folder to write.")],
    exits: Annotated[
        str, typer.Option(help="A folder of trained exits; init: copies of the last layer, to try speeds; none.")
    ] = "none",
    splits: Annotated[
        str | None, typer.Option(help="Layers after which exits hang, as 3,6,9. Default: those of the exits.")
    ] = None,
    precision: Annotated[Precision, typer.Option(help="Weights of the base; exits and head follow.")] = "fp32",
    exit_precision: Annotated[Precision | None, typer.Option(help="Weights of the exits.")] = None,
    head: Annotated[Precision | None, typer.Option(help="Weights of the LM head and the embedding.")] = None,
    cache: Annotated[Cache | None, typer.Option(help="Keys and values. Default: as the provider computes.")] = None,
    provider: Annotated[Provider, typer.Option(help="The ONNX Runtime provider to build the graphs for.")] = "cpu",
    block_size: Annotated[int, typer.Option(min=16, help="Weights that share a scale (int8, int4).")] = 32,
    asymmetric: Annotated[
        bool, typer.Option("--asymmetric", help="Zero points beside the scales (int8, int4).")
    ] = False,
    exactness: Annotated[
        Exactness | None,
        typer.Option(
            help="bit: one position and many give the same bits (about 4 % slower; the CPU's default); "
            "float: within 1e-4."
        ),
    ] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Positions, at most the model's own.")] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Compare with the model on a short prompt at the end."),
    ] = True,
    revision: Annotated[str | None, typer.Option(help="Hub revision.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what the Hub cache holds.")] = False,
) -> None:
    """Split a frozen base into ONNX segments, with one Balcony exit graph per split and one shared head."""
    require_workstation()
    from balcony_export.architectures import parse_splits
    from balcony_export.bundle_writer import export_bundle
    from balcony_export.formats import Choice
    from balcony_export.hub import resolve

    choice = Choice(provider, precision, exit_precision, head, cache, block_size, not asymmetric, exactness)
    choice.formats()
    folder = resolve(model, revision, offline)
    trained = None if exits in ("none", "init") else Path(exits)
    check = None
    if verify:
        from balcony_export.cli.verify import quiet
        from balcony_export.guard import guard

        quiet()
        later = f"balcony-edge verify {out} {model}" + (f" --exits {trained}" if trained else "")
        check = guard(folder, trained, later, partial(typer.echo, err=True))
    bundle = export_bundle(
        folder,
        out,
        model=model,
        exits=trained or ("init" if exits == "init" else None),
        splits=None if splits is None else parse_splits(splits),
        choice=choice,
        context=context,
        check=check,
    )
    size = sum(entry.bytes for entry in bundle.manifest.files.values())
    typer.echo(
        f"{out}: {len(bundle.manifest.segments)} segments, exits at {list(bundle.depths[:-1])}, "
        f"{precision}, {size / 1e6:.1f} MB",
        err=True,
    )
