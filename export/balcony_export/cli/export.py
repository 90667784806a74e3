"""``balcony-edge export``: a frozen base and its exits to a bundle."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import Cache, Exactness, Precision, Provider, Rounding
from balcony_export.cli.options import Offline, Revision
from balcony_export.extras import require_export, require_train


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="The base: a Hugging Face model folder, a .gguf file, a Hub id, or a name that models lists."
        ),
    ],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The bundle folder to write.")] = None,
    exits: Annotated[
        str,
        typer.Option(help="A folder of trained exits. init: copies of the last layer, to try speeds. none: no exits."),
    ] = "none",
    splits: Annotated[
        str | None,
        typer.Option(help="Layers after which to cut, such as 3,6,9, or none. Default: where the exits are."),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            help="Precision of the base's weights. Exits and head follow it, but int4 leaves the head at int8. "
            "keep: the numbers of a quantised checkpoint (GGUF, AWQ, GPTQ) as they are; its exits are int8."
        ),
    ] = "fp32",
    exit_precision: Annotated[Precision | None, typer.Option(help="Precision of the exits' weights.")] = None,
    head: Annotated[Precision | None, typer.Option(help="Precision of the LM head and the embedding.")] = None,
    cache: Annotated[
        Cache | None, typer.Option(help="Precision of keys and values. Default: the one that the provider computes in.")
    ] = None,
    cache_text: Annotated[
        Path | None, typer.Option(help="Text from which an int8 cache takes its scales. Default: a built-in page.")
    ] = None,
    provider: Annotated[Provider, typer.Option(help="The ONNX Runtime provider to build the graphs for.")] = "cpu",
    block_size: Annotated[
        int | None,
        typer.Option(
            min=16,
            help="Most weights that share a scale, rounded to nearest. Default: int8 64; int4 128, or 32 if bit-exact.",
        ),
    ] = None,
    rounding: Annotated[
        Rounding | None,
        typer.Option(
            help="calibrated: rounded for a text, in blocks chosen by measurement (the default of int4; some minutes). "
            "nearest: each weight by itself, the same on every machine (the default of int8)."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="The most that the bundle may take, such as 95MB, or 25% of fp32. Bits go where they matter most."
        ),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Text to round weights for. Default: samples of the base itself.")
    ] = None,
    asymmetric: Annotated[
        bool, typer.Option("--asymmetric", help="Store zero points beside the scales (int8, int4).")
    ] = False,
    exactness: Annotated[
        Exactness | None,
        typer.Option(
            help="bit: a position gets the same bits alone and among others, as lossless drafting needs (the default "
            "on CPUs, except for int4; about 4 % slower, int4 more). float: equal within 1e-4."
        ),
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="Largest number of positions, at most the model's own.")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="At the end, check the bundle on a short prompt: against the model, or without torch against itself.",
        ),
    ] = True,
    through_torch: Annotated[
        bool,
        typer.Option(
            "--through-torch",
            help="Use torch's exporter, for families without graphs of our own (fp32, CPU, slower; always verified).",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print layers, exit costs and file sizes. Read and write no weights.")
    ] = False,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Make a bundle from a frozen base and its exits. ONNX segments of the base, an exit a split, one shared head."""
    require_export()
    from balcony_export.bundling.dry_run import describe
    from balcony_export.bundling.writer import plan_export, write_bundle
    from balcony_export.graphs.formats import ExportOptions
    from balcony_export.model.architectures import parse_splits
    from balcony_export.model.download import resolve
    from balcony_export.progress import Progress
    from balcony_export.quantising.prepare import Calibration, calibrated, expected
    from balcony_export.quantising.size import Size

    wanted = Calibration(None if size is None else Size.parse(size), calibration)
    how = _rounding(rounding, precision, wanted != Calibration(), plain=block_size is not None or asymmetric)
    symmetric = not asymmetric
    options = ExportOptions(provider, precision, exit_precision, head, cache, block_size, symmetric, exactness, how)
    options.formats()
    source = None if exits == "none" else "init" if exits == "init" else Path(exits)
    chosen = None if splits is None else parse_splits(splits)
    if cache_text is not None and cache != "int8":
        raise typer.BadParameter("only --cache int8 takes its scales from a text", param_hint="--cache-text")
    if out is None and not dry_run:
        raise typer.BadParameter("name the bundle folder to write: -o FOLDER (or --dry-run)", param_hint="-o")
    folder = resolve(model, revision, offline)
    if through_torch:
        if options != ExportOptions() or dry_run or isinstance(source, Path):
            raise typer.BadParameter(
                "goes with --splits, --exits init, --context and -o only", param_hint="--through-torch"
            )
        require_train()
        from balcony_export.bundling.torch_bundle import export_through_torch

        assert out is not None
        made, found = export_through_torch(
            folder, out, model=model, init_exits=source == "init", splits=chosen, context=context
        )
        typer.echo(found.line(), err=True)
        _report(made, out)
        return
    plan = plan_export(folder, exits=source, splits=chosen, options=options, context=context)
    if dry_run:
        typer.echo(describe(expected(plan, wanted.size) if options.calibrated else plan))
        return
    assert out is not None
    if plan.loss is not None:
        typer.echo(plan.loss, err=True)
    check = None
    if verify:
        from balcony_export.bundling.self_check import self_check

        trained = source if isinstance(source, Path) else None
        later = f"balcony-edge verify {out} {model}" + (f" --exits {trained}" if trained else "")
        check = self_check(folder, trained, later, partial(typer.echo, err=True))
    with ExitStack() as stack:
        if options.calibrated:
            plan = stack.enter_context(calibrated(plan, wanted, partial(typer.echo, err=True)))
        progress = stack.enter_context(Progress("weights, MB", plan.dry_run().weight_bytes // 1_000_000))
        bundle = write_bundle(
            plan,
            out,
            model=model,
            progress=lambda done: progress.reach(done // 1_000_000),
            check=check,
            cache_text=cache_text,
        )
    _report(bundle, out)


def _rounding(asked: Rounding | None, precision: Precision, needed: bool, plain: bool) -> Rounding:
    """How weights are rounded. ``needed``: an option only makes sense with calibrated ones. ``plain``: the user chose
    blocks for all matrices."""
    if needed and asked == "nearest":
        raise typer.BadParameter("--size and --calibration need --rounding calibrated", param_hint="--rounding")
    if (needed or asked == "calibrated") and precision not in ("int8", "int4"):
        raise typer.BadParameter(f"weights of {precision} are not rounded: use int8 or int4", param_hint="--precision")
    if (needed or asked == "calibrated") and plain:
        raise typer.BadParameter(
            "calibrated rounding chooses the blocks: leave out --block-size and --asymmetric", param_hint="--rounding"
        )
    return asked or ("calibrated" if needed or (precision == "int4" and not plain) else "nearest")


def _report(bundle: Bundle, out: Path) -> None:
    size = sum(entry.bytes for entry in bundle.manifest.files.values())
    typer.echo(
        f"{out}: {len(bundle.manifest.segments)} segments, exits at {list(bundle.depths[:-1])}, "
        f"{bundle.manifest.formats.says_base}, {size / 1e6:.1f} MB",
        err=True,
    )
