"""Text that we keep for ourselves, with a digest: what a disk or a hand has changed is noticed and not gone on with.

``files/tensors.py`` does the same for tensors. A seal says that content is whole, not who has written it.
"""

from __future__ import annotations

import hashlib

BROKEN = "it was changed after it was written: its digest is not that of its content"


def seal_of(text: str) -> str:
    """The digest of a text: SHA-256 of its UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sealed(line: str) -> str:
    """The content of a file that keeps one line of text: the line, and a second one with its digest."""
    return f"{line}\n{seal_of(line)}\n"


def unsealed(content: str) -> str:
    """The line in such a file. Raises ValueError for any other content."""
    line, _, digest = content.partition("\n")
    if digest != f"{seal_of(line)}\n":
        raise ValueError(BROKEN)
    return line
