"""``balcony-edge push`` and ``balcony-edge pull``: bundles on the Hugging Face Hub or in a shared folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

REPO = "A Hub repository as owner/name, or a folder as ./folder or file:///folder."


def push(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    repo: Annotated[str, typer.Argument(help=REPO)],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private. One that exists stays as it is.")
    ] = False,
) -> None:
    """Check a bundle and share it with its model card. Prints where it is."""
    from balcony_edge.bundle import hub
    from balcony_edge.bundle.folder import Bundle

    typer.echo(hub.push(Bundle(bundle), repo, private))


def pull(
    repo: Annotated[str, typer.Argument(help=REPO)],
    out: Annotated[Path, typer.Option("-o", "--out", help="The bundle folder to write.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the Hub repository.")] = None,
) -> None:
    """Get a shared bundle and check it. Prints the folder."""
    from balcony_edge.bundle import hub

    hub.pull(repo, out, revision)
    typer.echo(out)
