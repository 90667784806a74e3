"""Where things lie, and the types of shared fixtures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import Exactness, Precision

ROOT = Path(__file__).resolve().parents[2]
DEMO_BASE = ROOT / "export" / "demo" / "base"
DEMO_EXITS = ROOT / "export" / "demo" / "exits"
# Data and checkpoints that may lie beside the project; tests that want them skip without.
SHARED = Path(os.environ.get("BALCONY_SHARED", ROOT.parent / "shared"))

MakeBundle = Callable[[Precision, Exactness], Bundle]
