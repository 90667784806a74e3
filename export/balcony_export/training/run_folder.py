"""What a training run leaves beside its exits: settings, metrics, a picture, and the state to resume from.

config.json      what was asked for, of which base and text, with which versions
metrics.jsonl    one line a step, and one a look at the held-out text
loss.png         both as a picture, where matplotlib is installed
state/           exits and moments to resume from; the best exits so far
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from balcony_edge.errors import BalconyError, ExitsError
from balcony_export.training import resume

VERSIONS = ("balcony-edge", "torch", "transformers", "accelerate")


@dataclass(frozen=True)
class Saving:
    """Where a run keeps the state to resume from, and how often it writes it."""

    path: Path
    every: int
    identity: Mapping[str, Any]
    """Settings and data of the run; a state of another identity is refused, never overwritten."""

    def check(self) -> None:
        """Raise BalconyError if the folder holds the state of a run with other settings or data."""
        found = resume.read_config(self.path)
        if found is None or found == self.identity:
            return
        names = sorted(name for name in {*found, *self.identity} if found.get(name) != self.identity.get(name))
        differences = "; ".join(
            f"another {name.removesuffix('_sha256')}"
            if name.endswith("_sha256")
            else f"{name} was {found.get(name)}, now {self.identity.get(name)}"
            for name in names
        )
        raise BalconyError(
            f"{self.path.parent} holds the state of another run: {differences}",
            f"repeat that run's options, choose another -o folder, or delete {self.path.parent}",
        )


class Metrics:
    """A JSONL file with one line a step. A resumed run drops the lines of the steps that it takes again."""

    def __init__(self, path: Path | None) -> None:
        """Without a path nothing is written."""
        self._path = path

    def begin(self, phase: str, first: int) -> None:
        """Forget the phase's lines behind step ``first``, and a last line that a crash cut short."""
        if self._path is None:
            return
        kept = [record for record in read(self._path) if record["phase"] != phase or record["step"] <= first]
        self._path.write_text("".join(json.dumps(record) + "\n" for record in kept))

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record."""
        if self._path is not None:
            with self._path.open("a") as stream:
                stream.write(json.dumps(record) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; none without a file."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}\n")]


def prepare(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder and write its config.json. Raises ExitsError if it cannot be made."""
    versions = {name: metadata.version(name) for name in VERSIONS if find_spec(name.replace("-", "_"))}
    text = json.dumps({**settings, "versions": versions}, indent=2, default=str) + "\n"
    try:
        (folder / "state").mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(text)
    except OSError as error:
        raise ExitsError(f"cannot make the folder {folder}: {error}", "choose another -o") from error


def draw(folder: Path) -> None:
    """The losses as loss.png; nothing where matplotlib is not installed."""
    if find_spec("matplotlib") is not None:
        from balcony_edge.measure import plots

        plots.losses(read(folder / "metrics.jsonl"), folder / "loss.png")
