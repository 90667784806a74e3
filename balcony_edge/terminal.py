"""Plain text tables with aligned columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def table(rows: Sequence[Sequence[str]], left: Collection[int] | None = None) -> str:
    """The rows as lines of text, each column as wide as its widest cell.

    ``left``: indices of the columns that are aligned left; the others are aligned right. None aligns all left.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if left is None or column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
