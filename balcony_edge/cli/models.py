"""``balcony-edge models``: the models that have a short name."""

from __future__ import annotations

import typer


def models() -> None:
    """List the models that run and export know by a short name, with licence, source and digest."""
    from balcony_edge.bundle import catalogue, model_file

    for name, model in catalogue.models().items():
        typer.echo(f"{name}: {model.title}")
        typer.echo(f"  licence {model.licence}, made by {model.home}")
        for source in filter(None, (model.package and model.package.requirement, model.hub and model.hub.repo)):
            typer.echo(f"  from {source}")
        typer.echo(f"  {model.file}, {model.bytes / 1e6:.1f} MB, sha256 {model.sha256}")
        typer.echo(f"  {'here: ' + str(model_file.place(model)) if model_file.is_there(model) else 'not here yet'}")
        if model.note:
            typer.echo(f"  {model.note}")
    typer.echo(f"{catalogue.STORIES}: the small model that comes with the package; tells stories")
