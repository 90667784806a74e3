"""Moves weights into huge pages: decoding reads all of them for every token, and looks up each page's address anew.

ONNX Runtime packs weights into ordinary memory, which most systems put into pages of 4 KB unless a program asks for
others ("madvise"). What that is worth: docs/measurements.md. Linux only; where the system's setting is "never", or the
environment says ``BALCONY_HUGE_PAGES=0``, nothing happens.
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

from balcony_edge.engine.libc import libc

# From the kernel's mman-common.h; COLLAPSE is of Linux 6.1.
MADV_HUGEPAGE = 14
MADV_COLLAPSE = 25
SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
MAPS = Path("/proc/self/maps")
# So many blocks are moved at once: a call has a price, and between calls there is a look at the clock.
PIECE = 16
# Private and writable, of no file: what malloc maps.
OWN = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw.p \S+ \S+ 0\s*(?:\[heap\]|\[anon:.*\])?$", re.MULTILINE)

Advise = Callable[[int, int, int], int]


@contextlib.contextmanager
def huge_pages(settings: Path = SETTINGS, maps: Path = MAPS) -> Iterator[None]:
    """Memory that is filled within is moved into huge pages at the end, unless an exception leaves.

    Only blocks of a huge page's size that are filled whole: the process takes no more memory than before. Where free
    memory lies in pieces the system must make room first, so this takes at most as long as what was done within.
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
    """Bytes of a huge page; 0 where there are none to be had."""
    if os.environ.get("BALCONY_HUGE_PAGES") == "0":
        return 0
    try:
        enabled = (settings / "enabled").read_text()
        return 0 if "[never]" in enabled else int((settings / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return 0


def filled(size: int, maps: Path = MAPS) -> Iterator[int]:
    """Addresses of the blocks of ``size`` bytes of the process's own memory whose every page is there."""
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


def move(stretches: Iterable[tuple[int, int]], madvise: Advise, in_time: Callable[[], bool]) -> int:
    """Make huge pages of memory from start to stop each; returns of how many bytes.

    What is left when time or free huge pages run out, and all of it before Linux 6.1, is marked: the system moves it in
    its own time.
    """
    moved = 0
    at_once = True
    for start, stop in stretches:
        at_once = at_once and in_time() and madvise(start, stop - start, MADV_COLLAPSE) == 0
        if at_once:
            moved += stop - start
        elif madvise(start, stop - start, MADV_HUGEPAGE):
            break
    return moved


def runs(blocks: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the stretches, of PIECE blocks at the most, that ascending blocks of ``size`` bytes fill."""
    first = 0
    for index in range(1, len(blocks) + 1):
        if index - first == PIECE or index == len(blocks) or blocks[index] != blocks[index - 1] + size:
            yield blocks[first], blocks[index - 1] + size
            first = index
