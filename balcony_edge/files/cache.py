"""Where balcony-edge stores files that it can make or fetch again: stage times, bundles from the Hub."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The folder: ``BALCONY_CACHE_DIR`` if that is set, else the system's usual place for caches."""
    return Path(os.environ.get("BALCONY_CACHE_DIR") or platformdirs.user_cache_dir("balcony-edge"))
