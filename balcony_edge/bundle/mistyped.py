"""Names like owner/name may be a mistyped folder. Whether they are is seen here, before anybody asks the Hub."""

from __future__ import annotations

import difflib
from pathlib import Path

from balcony_edge.files.home import expand


def mistyped_folder(name: str) -> tuple[str, str] | None:
    """What is wrong with ``name`` and what to do, if it does not exist but the folder that would hold it does.

    None if it may be a Hub id.
    """
    path = expand(name)
    if path.exists() or not path.parent.is_dir() or path.parent == Path():
        return None
    try:
        there = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    except OSError:
        there = []
    near = difflib.get_close_matches(path.name, there, 3) or there[:3]
    found = f"{path.parent} holds {', '.join(near)}" if near else f"{path.parent} is empty"
    return (
        f"there is no {name}: {found}",
        f"correct the name; if the Hub's repository of that name is meant, add --revision main{_near(path, near)}",
    )


def _near(path: Path, near: list[str]) -> str:
    return f" (did you mean {path.parent / near[0]}?)" if near and difflib.get_close_matches(path.name, near) else ""
