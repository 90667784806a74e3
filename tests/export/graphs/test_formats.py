"""What an export's habits are where the user has not chosen."""

from __future__ import annotations

import pytest

from balcony_edge.bundle.manifest import Exactness
from balcony_edge.errors import ModelError
from balcony_export.graphs.formats import ExportOptions


@pytest.mark.parametrize(
    ("options", "block_size", "exactness"),
    [
        (ExportOptions(), 64, "bit"),
        (ExportOptions(precision="fp16"), 64, "bit"),
        (ExportOptions(precision="int8"), 64, "bit"),
        (ExportOptions(precision="int8", block_size=128), 128, "float"),
        (ExportOptions(precision="int8", block_size=32), 32, "bit"),
        (ExportOptions(precision="int4"), 128, "float"),
        (ExportOptions(precision="int4", exactness="bit"), 32, "bit"),
        (ExportOptions(precision="int4", block_size=32), 32, "bit"),
        (ExportOptions(precision="int4", head="int8"), 128, "float"),
        (ExportOptions(precision="int8", head="int4"), 128, "float"),
        (ExportOptions(precision="fp32", block_size=256), 256, "bit"),
        (ExportOptions("cuda", "int8"), 64, "float"),
        (ExportOptions("cuda", "int4"), 128, "float"),
    ],
)
def test_blocks_are_as_large_as_exactness_leaves_them(
    options: ExportOptions, block_size: int, exactness: Exactness
) -> None:
    assert options.formats().block_size == block_size
    assert options.attention() == exactness


@pytest.mark.parametrize("size", [8, 48, 100, 512])
def test_blocks_that_the_runtime_does_not_know_are_refused(size: int) -> None:
    with pytest.raises(ModelError, match=f"no blocks of {size}"):
        ExportOptions(precision="int4", block_size=size).formats()
