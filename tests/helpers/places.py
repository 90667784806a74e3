"""Where things lie, and the types of shared fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from balcony_edge.bundle import Bundle, Exactness, Precision

ROOT = Path(__file__).resolve().parents[2]
DEMO_BASE = ROOT / "export" / "demo" / "base"
DEMO_EXITS = ROOT / "export" / "demo" / "exits"

MakeBundle = Callable[[Precision, Exactness], Bundle]
