"""``balcony-edge push`` and ``balcony-edge pull``: share bundles on the Hugging Face Hub or in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

REPO = "A Hub repository as owner/name, or a folder as ./folder or file:///folder."


def push(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder, whole or thin.")],
    repo: Annotated[str, typer.Argument(help=REPO)],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private. One that exists stays as it is.")
    ] = False,
) -> None:
    """Check a bundle and share it with its model card. Prints where it is."""
    from balcony_edge.bundle import hub
    from balcony_edge.bundle.folder import open_folder

    typer.echo(hub.push(open_folder(bundle), repo, private))


def pull(
    repo: Annotated[str, typer.Argument(help=f"{REPO[:-1]}, or a name that models lists.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The bundle folder to write. Only a model that models lists needs none."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the Hub repository.")] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Complete a thin bundle with your copy of its base: a model folder, a .gguf file or a Hub id."
        ),
    ] = None,
) -> None:
    """Get a shared bundle and check it. Prints the folder. A thin bundle stays thin without --base."""
    from balcony_edge.bundle import catalogue, hub
    from balcony_edge.bundle.folder import is_thin
    from balcony_edge.bundle.open import open_bundle
    from balcony_edge.bundle.thin import missing_base

    if out is None:
        if catalogue.find(repo) is None:
            raise typer.BadParameter("name the bundle folder to write: -o FOLDER", param_hint="-o")
        typer.echo(open_bundle(repo, revision=revision, base=base).path)
        return
    manifest = hub.pull(repo, out, revision, base)
    if is_thin(out, manifest):
        typer.echo(missing_base(str(out), manifest), err=True)
    typer.echo(out)
