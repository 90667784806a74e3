"""``balcony-edge thin``: a bundle without the weights of its base, to share where the base may not be shared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from balcony_edge.bundle.folder import Bundle
from balcony_export.extras import require_export


def thin(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder of the thin bundle to write.")],
) -> None:
    """Make a bundle without the weights of its base. Who has the base completes it: pull or run with --base."""
    require_export()
    from balcony_export.bundling.thin import make_thin

    opened = Bundle(bundle)
    made = make_thin(opened, out)
    size, whole = (sum(entry.bytes for entry in one.files.values()) / 1e6 for one in (made, opened))
    typer.echo(f"{out}: {size:.1f} MB of {whole:.1f} MB, without {made.manifest.base.model}", err=True)
