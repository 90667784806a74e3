"""What the workstation hands to the emulated device: the bundles of the tests, and what they answer on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

from balcony_edge.measure.prompts import STORIES
from benchmarks import machines
from helpers import tiny

ANSWERS = "answers.npz"
REPLIES, TOKENS = 4, 24


def compared(folder: Path) -> dict[str, str | Path]:
    """The bundles whose answers are compared."""
    return {"int8": "demo", "fp32": folder / tiny.DEMO, "int4": folder / "demo-int4"}


def hand_over(folder: Path) -> None:
    """Make them anew in ``folder``."""
    from balcony_export.bundling.writer import export_bundle
    from balcony_export.graphs.formats import ExportOptions
    from helpers.places import DEMO_BASE, DEMO_EXITS

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tiny.make_model(folder / tiny.MODEL)
    for precision, exactness in (("fp32", "bit"), ("fp32", "float"), ("int8", "bit"), ("int4", "bit")):
        model = folder / tiny.MODEL / "base"
        tiny.make_bundle(model, precision, exactness, folder / tiny.name(precision, exactness))
    tiny.make_demo(folder / tiny.DEMO)
    options = ExportOptions(precision="int4", exactness="bit")
    export_bundle(DEMO_BASE, folder / "demo-int4", model="demo", exits=DEMO_EXITS, options=options)
    prompts = STORIES[:: len(STORIES) // REPLIES][:REPLIES]
    machines.write(folder / ANSWERS, list(compared(folder).values()), prompts, TOKENS)
