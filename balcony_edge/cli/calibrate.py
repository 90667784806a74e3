"""``balcony-edge calibrate``: measures how often a bundle's exits are right on what it is asked here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from balcony_edge.cli.options import Provider, Threads


def calibrate(
    bundle: Annotated[str, typer.Argument(help="The bundle folder, which is changed.")],
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            help="What your users ask: one prompt a line, or JSON Lines with a field prompt. Default: built-in ones.",
        ),
    ] = None,
    tokens: Annotated[int, typer.Option("-n", "--tokens", min=2, help="Longest reply.")] = 150,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")] = False,
    provider: Provider = "auto",
    threads: Threads = None,
) -> None:
    """Measure how often a bundle's exits are right on what it is asked, and let the controller go by that.

    The model answers every prompt at full depth, and each exit is compared with it. Then the bundle's tables are
    replaced; its weights stay. Under a budget the controller then chooses better depths for such prompts.
    """
    from balcony_edge.bundle.open import open_bundle
    from balcony_edge.cli.replay import progress
    from balcony_edge.errors import BundleError
    from balcony_edge.files.home import expand
    from balcony_edge.measure import calibration
    from balcony_edge.measure.prompts import encoded, prompts_for, read_prompts
    from balcony_edge.measure.records import record
    from balcony_edge.session import AdaptiveSession

    folder = expand(bundle)
    if not folder.is_dir():
        raise BundleError(f"{bundle} is no folder", "pull it first: balcony-edge pull NAME -o bundle/")
    asked = None if prompts is None else read_prompts(prompts)
    opened = open_bundle(folder)
    with AdaptiveSession(opened, provider=provider, threads=threads) as session:
        ids = prompts_for(session.codec) if asked is None else encoded(session.codec, asked)
        made = record(session, ids, tokens, progress=lambda done, of: progress(f"reply {done + 1} of {of}"))
    progress("")
    known = opened.manifest.quality
    changed = calibration.calibrate(made, known)
    before = calibration.errors(made, opened.manifest)
    typer.echo(f"{made.tokens} tokens of {len(made.replies)} replies")
    for split, new in changed.items():
        typer.echo(
            f"exit {split}: agreement {known[split].agreement:.3f} → {new['agreement']:.3f}; the tables were off by "
            f"{before[split][1]:.3f} here"
        )
    if dry_run:
        return
    calibration.write(folder, changed)
    typer.echo(f"written to {folder}")
