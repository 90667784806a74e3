"""Where balcony-edge stores files that it can make or fetch again: stage times, bundles from the Hub."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from balcony_edge.errors import HubError
from balcony_edge.files.home import user_folder

VARIABLE = "BALCONY_CACHE_DIR"


def cache_folder() -> Path | None:
    """The folder: ``BALCONY_CACHE_DIR`` if that is set, else the system's usual place for caches; None without any."""
    return user_folder(VARIABLE, platformdirs.user_cache_dir)


def needed_cache_folder(what: str) -> Path:
    """The folder, for what cannot do without it. Raises HubError where there is no place; ``what`` is what it keeps."""
    found = cache_folder()
    if found is None:
        raise HubError(f"there is no place to keep {what}: this user has no home", f"set {VARIABLE}=FOLDER")
    return found
