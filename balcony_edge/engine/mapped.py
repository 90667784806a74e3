"""Gives back the memory of weights that ONNX Runtime has read from their mapped file and keeps in a form of its own.

The pages stay in the system's cache, for as long as nobody needs that memory: what is read again (embedding rows, say)
comes back by itself. Linux only; elsewhere nothing happens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from balcony_edge.engine.libc import libc

# From the kernel's mman-common.h.
MADV_DONTNEED = 4
MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+\s+(.*)")


def drop_pages(folder: Path, smaps: Path = Path("/proc/self/smaps")) -> int:
    """Drop this process's pages of files in ``folder`` that it maps and never wrote to; returns how many bytes."""
    try:
        text = smaps.read_text(errors="replace")
    except OSError:
        return 0
    madvise = libc().madvise
    return sum(
        resident for start, stop, resident in unwritten(text, folder) if not madvise(start, stop - start, MADV_DONTNEED)
    )


def unwritten(smaps: str, folder: Path) -> Iterator[tuple[int, int, int]]:
    """(start, stop, resident bytes) of each mapping of a file in ``folder`` that has no page of the process's own."""
    inside = f"{folder.resolve()}/"
    bounds: tuple[int, int] | None = None
    resident = 0
    for line in smaps.splitlines():
        if found := MAPPING.match(line):
            start, stop, path = found.groups()
            bounds = (int(start, 16), int(stop, 16)) if path.startswith(inside) else None
        elif bounds and line.startswith("Rss:"):
            resident = int(line.split()[1]) << 10
        elif bounds and line.startswith("Anonymous:") and line.split()[1] == "0":
            yield *bounds, resident
