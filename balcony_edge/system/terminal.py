"""Text for people at a terminal: tables with aligned columns, and strangers' strings without control characters.

A terminal obeys what it is sent: a name in a manifest could rename its window, hide text, or type for the user. So what
was not written here is cleaned before it is shown: in tables, in errors, and wherever else it is printed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import IO, Any

# Control characters but for line ends and tabs; what turns the direction of writing; half characters.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    """The text with control characters written as escapes (``\\x1b``). Line ends and tabs stay."""
    return _UNSHOWN.sub(lambda found: ascii(found[0])[1:-1], text)


def cell(text: str) -> str:
    """A cleaned text on one line."""
    return clean(text).replace("\n", "\\n").replace("\t", "\\t")


def shown(text: str, stream: IO[Any]) -> str:
    """A model's text for a stream: cleaned for a terminal, as it is for a file or a program."""
    return clean(text) if stream.isatty() else text


def table(rows: Sequence[Sequence[str]], left: Collection[int] | None = None) -> str:
    """The rows as lines of text, each column as wide as its widest cell. Cells are cleaned.

    ``left``: indices of the columns that are aligned left; the others are aligned right. None aligns all left.
    """
    cells = [[cell(text) for text in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if left is None or column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )
