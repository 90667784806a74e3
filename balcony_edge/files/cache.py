"""Where balcony-edge stores files that it can make or fetch again: stage times, bundles from the Hub."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from balcony_edge.files.home import user_folder

VARIABLE = "BALCONY_CACHE_DIR"


def cache_folder() -> Path | None:
    """The folder: ``BALCONY_CACHE_DIR`` if that is set, else the system's usual place for caches; None without any."""
    return user_folder(VARIABLE, platformdirs.user_cache_dir)
