"""Keeps what a graph's loading throws away out of the process's memory.

ONNX Runtime reads weights into buffers, packs them into others and frees the first. glibc's malloc maps large buffers
by themselves, which go back to the system when they are freed; but each such return lets it take larger ones from the
heap, where the packed weights then lie between holes.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from functools import cache
from typing import Any

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
# Where glibc begins, and where this leaves it: a step's logits (half a megabyte of a large vocabulary) are of the heap.
WITHIN_BYTES = 128 << 10
AFTER_BYTES = 4 << 20


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
    """Large buffers that are freed within go back to the system, and so does what is free at the end.

    Afterwards malloc takes buffers of up to AFTER_BYTES from the heap, as it does by itself once it has freed one so
    large, but adapts no more. Elsewhere than with glibc nothing happens.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(M_MMAP_THRESHOLD, WITHIN_BYTES)
    try:
        yield
    finally:
        libc.malloc_trim(0)
        libc.mallopt(M_MMAP_THRESHOLD, AFTER_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * AFTER_BYTES)


@cache
def _glibc() -> Any:
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if libc.gnu_get_libc_version and libc.mallopt and libc.malloc_trim else None
    except (OSError, AttributeError):
        return None
