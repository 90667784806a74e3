"""``balcony-edge verify``: is this bundle the model it came from, and what did its precision cost?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from balcony_edge.cli.options import finite
from balcony_edge.errors import VerifyError
from balcony_export.cli.options import Offline, Revision
from balcony_export.extras import require_train

if TYPE_CHECKING:
    from balcony_edge.bundle.folder import Bundle


def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle folder.")],
    model: Annotated[
        str,
        typer.Argument(
            help="The model that it was made from: a folder, a .gguf file, a Hub id, or a name that models lists."
        ),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option("-p", "--prompt", help="Compare on this prompt. Repeatable. Default: three built-in ones."),
    ] = None,
    file: Annotated[
        list[Path] | None, typer.Option("-f", "--file", help="Read a prompt from a file. Repeatable.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=0, help="Number of greedy tokens after each prompt.")] = 32,
    exits: Annotated[
        Path | None, typer.Option(help="The folder of trained exits, to compare exits and gates too.")
    ] = None,
    max_kl: Annotated[
        float | None,
        typer.Option(
            callback=finite, min=0, help="Fail if full depth has a higher KL from the model than this (nats a token)."
        ),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Do something else: measure what precision and exits cost on this text (plain, .xz, .gz). Repeatable."
        ),
    ] = None,
    window: Annotated[int, typer.Option(min=2, help="Tokens in a sequence of --text.")] = 1024,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    provider: Annotated[
        str, typer.Option(help="What runs the bundle: cpu, cuda, or auto (the one it was exported for).")
    ] = "auto",
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Check that a bundle computes what its model does in fp32, stage by stage. Exit code 1 if a stage fails."""
    require_train()
    from balcony_edge.bundle.folder import Bundle
    from balcony_export.bundling.kept_check import with_kept
    from balcony_export.model import download
    from balcony_export.model.transformers_model import quiet
    from balcony_export.verification import report
    from balcony_export.verification.verify import verify as compare

    opened = Bundle(bundle)
    folder = download.resolve(model, revision, offline)
    quiet()
    if text:
        from balcony_export.verification.precision import measure_precision

        costs = measure_precision(opened, folder, text, window, provider)
        typer.echo(costs.to_json() if json else costs.table())
        return
    found = compare(
        opened,
        folder,
        _prompts(opened, prompt or [], file or []),
        tokens,
        exits=exits,
        max_kl=max_kl,
        provider=provider,
    )
    found = with_kept(found, opened, folder)
    typer.echo(found.to_json() if json else found.table())
    if (failure := found.first_failure) is not None:
        raise VerifyError(
            f"{bundle} does not compute what {found.model} does: {report.explain(failure)}",
            "allow more with --max-kl, or keep more bits: balcony-edge export --precision … --head …"
            if failure.kl_nats is not None and failure.limit is None
            else report.next_step(
                failure, "run balcony-edge export again; if that bundle fails too, report it with the model's name"
            ),
        )
    if not json:
        typer.echo(found.line(), err=True)


def _prompts(bundle: Bundle, texts: list[str], files: list[Path]) -> list[list[int]] | None:
    """The token ids of all prompts from the options; None if there are none."""
    from balcony_edge.text.given_text import read_file
    from balcony_export.verification.prompts import encode_prompts

    given = [*texts, *map(read_file, files)]
    return encode_prompts(bundle, given) if given else None
