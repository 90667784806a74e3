"""Things that are made once for all processes of a test run, however many pytest-xdist starts."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def common(factory: pytest.TempPathFactory) -> Path:
    """The folder that all processes of this run share."""
    base = factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder or file called ``name`` that ``make`` has filled: by whoever asks first, the others wait for it.

    What lies below the folder BALCONY_MADE was made on another machine, and is taken as it is.
    """
    elsewhere = os.environ.get("BALCONY_MADE")
    if elsewhere and Path(elsewhere, name).exists():
        return Path(elsewhere, name)
    place = common(factory) / "once"
    place.mkdir(exist_ok=True)
    made = place / name
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            # Under its own name only when whole: who made it may have failed in the middle.
            unfinished = place / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(made)
    return made
