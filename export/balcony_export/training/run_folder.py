"""The other files in the folder of a training run, beside the exits.

config.json      the settings, base, text and package versions of the run
metrics.jsonl    a line for each step, and a line for each look at the held-out text
loss.png         a picture of metrics.jsonl, if matplotlib is installed
state/           the state to resume from, and the best exits so far
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from balcony_edge.errors import BalconyError, ExitsError
from balcony_edge.files import values
from balcony_edge.files.reading import UNFITTING, parse_json
from balcony_export.training import resume

VERSIONS = ("balcony-edge", "torch", "transformers", "accelerate")


@dataclass(frozen=True)
class Saving:
    """Where and how often a run saves the state to resume from."""

    path: Path
    every: int
    """Steps from one saved state to the next."""
    identity: Mapping[str, Any]
    """The settings and data of the run. A saved state of another identity is refused, never overwritten."""

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
    """The file metrics.jsonl. Without a path, nothing is written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def begin(self, phase: str, first: int) -> None:
        """Remove the phase's lines after step ``first``, which will be written again, and a line that a crash cut."""
        if self._path is None:
            return
        lines = [line for line in read(self._path) if line["phase"] != phase or line["step"] <= first]
        self._path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line: what was measured at a step of a phase."""
        if self._path is not None:
            with self._path.open("a") as stream:
                stream.write(json.dumps(line) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, except those that were cut or broken; empty if there is no file."""
    content = path.read_bytes() if path.exists() else b""
    lines = (_line(piece) for piece in content.decode("utf-8", "replace").split("\n")[:-1])
    return [line for line in lines if line is not None]


def _line(text: str) -> dict[str, Any] | None:
    """A line of a metrics file as what it says; None if it is none."""
    try:
        line = values.mapping(parse_json(text), "a line")
        values.text(line["phase"], "phase")
        values.whole(line["step"], "step")
    except UNFITTING:
        return None
    return line


def prepare(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder and its config.json, of ``settings`` and package versions. Raises ExitsError if it cannot."""
    versions = {name: metadata.version(name) for name in VERSIONS if find_spec(name.replace("-", "_"))}
    text = json.dumps({**settings, "versions": versions}, indent=2, default=str) + "\n"
    try:
        (folder / "state").mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(text)
    except OSError as error:
        raise ExitsError(f"cannot make the folder {folder}: {error}", "choose another -o") from error


def draw(folder: Path) -> None:
    """Draw metrics.jsonl as loss.png, if matplotlib is installed."""
    if find_spec("matplotlib") is not None:
        from balcony_edge.measure import plots

        # A line that a disk has changed costs the picture, and not the run.
        with suppress(*UNFITTING):
            plots.losses(read(folder / "metrics.jsonl"), folder / "loss.png")
