"""An export killed at any instant: the target is the old bundle, the new one, or not there; the next run recovers."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from balcony_edge.bundle.folder import Bundle
from balcony_export.bundling.writer import export_bundle
from helpers import exporting

OLD, NEW = [2], [1, 3]

# Runs an export in a process of its own; returns the signal that ended it, 0 for none.
Export = Callable[..., int]


@pytest.fixture(scope="module")
def export(tiny_model: Path) -> Iterator[Export]:
    """Orders to the exporting process."""
    with subprocess.Popen(
        [sys.executable, exporting.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Threads of a pool do not survive a fork.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin
        assert process.stdout

        def order(out: Path, **how: Any) -> int:
            assert process.stdin
            assert process.stdout
            line = json.dumps({"model": str(tiny_model), "out": str(out), "splits": NEW, **how})
            process.stdin.write(line + "\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
            assert status in (0, signal.SIGKILL)
            return status

        yield order
        process.stdin.close()


@pytest.fixture(scope="module")
def bundles(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The bundle that stood before, and the one that the killed run writes."""
    folder = tmp_path_factory.mktemp("reference")
    return {
        name: export_bundle(tiny_model, folder / name, model="m", exits="init", splits=splits)
        for name, splits in (("old", OLD), ("new", NEW))
    }


def digest(out: Path) -> str:
    """The digest of a bundle that loads, all its files verified."""
    return Bundle(out).manifest.digest


def prepare(out: Path, bundles: dict[str, Bundle], with_old: bool) -> set[str]:
    """A fresh place, perhaps with the old bundle in it; returns the digests that may stand there from now on."""
    shutil.rmtree(out.parent, ignore_errors=True)
    out.parent.mkdir()
    if with_old:
        shutil.copytree(bundles["old"].path, out)
    return {bundles[name].manifest.digest for name in ("old", "new")[not with_old :]}


def check(out: Path, allowed: set[str], with_old: bool) -> None:
    """Whole or not there; and where an old bundle stood, it is never lost."""
    if out.exists():
        assert digest(out) in allowed
    elif with_old:
        assert digest(out.with_name(f".{out.name}.previous")) in allowed


def check_recovery(tiny_model: Path, out: Path, bundles: dict[str, Bundle]) -> None:
    export_bundle(tiny_model, out, model="m", exits="init", splits=NEW)
    assert digest(out) == bundles["new"].manifest.digest
    assert [path.name for path in out.parent.iterdir()] == [out.name]


# Every third event where there is no old bundle to lose: half of the time for what the other case covers. Where there
# is one, every event in the long run.
@pytest.mark.parametrize(("with_old", "step"), [(False, 3), (True, 4), pytest.param(True, 1, marks=pytest.mark.long)])
def test_killed_before_file_system_events(
    export: Export, tiny_model: Path, bundles: dict[str, Bundle], tmp_path: Path, with_old: bool, step: int
) -> None:
    out = tmp_path / "place" / "b"
    unfinished = 0
    for event in itertools.count(1, step):
        allowed = prepare(out, bundles, with_old)
        killed = export(out, kill_at=event)
        check(out, allowed, with_old)
        if not killed:
            break
        unfinished += any(path.name != "b" for path in out.parent.iterdir())
        check_recovery(tiny_model, out, bundles)
    # The hook did see the work, not just its ends.
    assert unfinished > 20 // step


@pytest.mark.parametrize("with_old", [False, True])
def test_killed_at_random_times(
    export: Export, tiny_model: Path, bundles: dict[str, Bundle], tmp_path: Path, with_old: bool
) -> None:
    out = tmp_path / "place" / "b"
    chance = random.Random(20250305)
    for _ in range(8):
        allowed = prepare(out, bundles, with_old)
        export(out, kill_after_s=chance.uniform(0.0, 0.2))
        check(out, allowed, with_old)
        check_recovery(tiny_model, out, bundles)


def test_killed_again_and_again(export: Export, tiny_model: Path, bundles: dict[str, Bundle], tmp_path: Path) -> None:
    """Each run meets what the one before it left."""
    out = tmp_path / "place" / "b"
    chance = random.Random(7)
    allowed = prepare(out, bundles, with_old=True)
    for _ in range(20):
        export(out, kill_at=chance.randint(1, 50))
        check(out, allowed, with_old=True)
    check_recovery(tiny_model, out, bundles)
