"""The user's folders, where there may be no home: a service or container without HOME and without a passwd entry."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def expand(path: str | Path) -> Path:
    """The path with ``~`` replaced by the home; unchanged where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def user_folder(variable: str, usual: Callable[[str], str]) -> Path | None:
    """The folder that the environment's ``variable`` names, else the ``usual`` one (of platformdirs); None without.

    A relative path is none: a home of ``~`` that nobody knows would become a folder of that name.
    """
    if named := os.environ.get(variable):
        return Path(named)
    try:
        found = Path(usual("balcony-edge"))
    except (RuntimeError, KeyError):
        return None
    return found if found.is_absolute() else None
