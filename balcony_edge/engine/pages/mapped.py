"""Releases the mapped pages of weight files once ONNX Runtime has packed the weights into its own memory.

The system keeps such pages in its file cache as long as there is room: what is read again (embedding rows, say) comes
back by itself. Linux only; elsewhere nothing happens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from balcony_edge.engine.pages.libc import libc

# From the kernel's mman-common.h.
MADV_DONTNEED = 4
MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+\s+(.*)")


def release_pages(folder: Path, smaps: Path = Path("/proc/self/smaps")) -> int:
    """Release this process's pages of mapped files in ``folder``; returns how many bytes.

    Mappings in which the process has written keep their pages. ``smaps``: a file in the form of /proc/self/smaps.
    """
    try:
        text = smaps.read_text(errors="replace")
    except OSError:
        return 0
    madvise = libc().madvise
    return sum(
        resident for start, stop, resident in unwritten(text, folder) if not madvise(start, stop - start, MADV_DONTNEED)
    )


def unwritten(smaps: str, folder: Path) -> Iterator[tuple[int, int, int]]:
    """(start, stop, resident bytes) of each mapping of a file in ``folder`` in which the process has not written."""
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
