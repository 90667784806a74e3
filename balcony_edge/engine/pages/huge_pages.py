"""Moves weights into huge pages, which makes decoding faster: fewer pages, fewer address look-ups.

Decoding reads all weights for every token. ONNX Runtime packs them into ordinary memory, and most systems use pages of
4 KB unless a program asks for larger ones (madvise). docs/measurements.md has the gain. Linux only. Nothing happens
where the system's setting is "never" or the environment has ``BALCONY_HUGE_PAGES=0``.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from balcony_edge.engine.pages.libc import libc

# From the kernel's mman-common.h. MADV_COLLAPSE exists since Linux 6.1.
MADV_HUGEPAGE = 14
MADV_COLLAPSE = 25
SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
MAPS = Path("/proc/self/maps")
# Blocks moved by one call. More cost fewer calls; but the clock is only checked between calls.
PIECE = 16
# Lines of /proc/self/maps for private, writable memory without a file: what malloc maps.
OWN = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw.p \S+ \S+ 0\s*(?:\[heap\]|\[anon:.*\])?$", re.MULTILINE)

Advise = Callable[[int, int, int], int]


@contextlib.contextmanager
def huge_pages(settings: Path = SETTINGS, maps: Path = MAPS) -> Iterator[None]:
    """Move the memory that is filled within the block into huge pages, at the block's end.

    Only blocks of a huge page's size that are filled completely are moved, so the process takes no more memory than
    before. Where free memory is fragmented the system must make room first; therefore the move is stopped after as
    much time as the block itself took. After an exception nothing is moved.
    """
    size = block_bytes(settings)
    before = set(filled(size, maps)) if size else set()
    started = time.monotonic()
    yield
    if size:
        ended = time.monotonic()
        fresh = sorted(set(filled(size, maps)) - before)
        move(runs(fresh, size), libc().madvise, lambda: time.monotonic() - ended < ended - started)


def block_bytes(settings: Path = SETTINGS) -> int:
    """Bytes of a huge page; 0 where they cannot be used."""
    if os.environ.get("BALCONY_HUGE_PAGES") == "0":
        return 0
    try:
        enabled = (settings / "enabled").read_text()
        return 0 if "[never]" in enabled else int((settings / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return 0


def filled(size: int, maps: Path = MAPS) -> Iterator[int]:
    """Addresses of blocks of ``size`` bytes in the process's own memory of which every page is in use.

    ``size``: a multiple of the page size. ``maps``: a file in the form of /proc/self/maps.
    """
    try:
        text = maps.read_text(errors="replace")
    except OSError:
        return
    for found in OWN.finditer(text):
        start, stop = (int(bound, 16) for bound in found.groups())
        start, stop = -(-start // size) * size, stop // size * size
        if start < stop:
            pages = np.zeros((stop - start) // mmap.PAGESIZE, np.uint8)
            if libc().mincore(start, stop - start, pages.ctypes.data) == 0:
                whole = (pages & 1).reshape(-1, size // mmap.PAGESIZE).all(axis=1)
                yield from (start + size * int(index) for index in np.flatnonzero(whole))


def move(stretches: Iterable[tuple[int, int]], madvise: Advise, in_time: Callable[[], bool]) -> None:
    """Turn each (start, stop) of addresses into huge pages, at once as long as ``in_time`` says so.

    When time or free huge pages run out, and before Linux 6.1, the rest is only marked: the system moves it later.
    """
    at_once = True
    for start, stop in stretches:
        at_once = at_once and in_time() and madvise(start, stop - start, MADV_COLLAPSE) == 0
        if not at_once and madvise(start, stop - start, MADV_HUGEPAGE):
            break


def runs(blocks: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Adjacent blocks of ``size`` bytes joined to (start, stop), at most PIECE blocks each; ``blocks`` ascend."""
    first = 0
    for index in range(1, len(blocks) + 1):
        if index - first == PIECE or index == len(blocks) or blocks[index] != blocks[index - 1] + size:
            yield blocks[first], blocks[index - 1] + size
            first = index
