"""Every family, its quirks switched on: segments, exits and decoding equal transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from balcony_export.model.families import FAMILIES
from helpers.families import ROWS
from helpers.parity import STEPS, measure
from helpers.places import ROOT


@pytest.mark.parametrize("row", ROWS)
def test_family(row: str, tmp_path: Path) -> None:
    found = measure(row, tmp_path)
    assert found.greedy == STEPS
    assert max(found.hidden, found.logits, found.exits, found.uncut) <= 1e-4


def test_every_family_has_a_row_here_and_in_the_docs() -> None:
    assert {model_type for model_type, _ in ROWS.values()} == set(FAMILIES)
    page = (ROOT / "docs" / "families.md").read_text()
    assert [line.split("|")[1].strip() for line in page.splitlines() if line.count("|") > 6][2:] == list(ROWS)
