"""Where balcony-edge keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The user's cache folder of balcony-edge (``BALCONY_CACHE_DIR`` moves it)."""
    return Path(os.environ.get("BALCONY_CACHE_DIR") or platformdirs.user_cache_dir("balcony-edge"))
