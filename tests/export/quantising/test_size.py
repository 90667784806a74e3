"""What ``--size`` understands."""

from __future__ import annotations

import pytest

from balcony_edge.errors import ModelError
from balcony_export.quantising.size import Size


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("95MB", 95_000_000),
        ("1.2 GB", 1_200_000_000),
        ("600MiB", 600 * 2**20),
        ("25%", 250),
        ("12.5 %", 125),
        ("7b", 7),
    ],
)
def test_sizes(text: str, limit: int) -> None:
    assert Size.parse(text).limit(1000) == limit


@pytest.mark.parametrize("text", ["", "95", "0MB", "-3MB", "MB", "1e3MB", "lots"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ModelError, match="no size"):
        Size.parse(text)
