"""Returns the memory to the system that ONNX Runtime frees while it loads a graph.

ONNX Runtime reads weights into buffers, packs them into other buffers and frees the first. glibc's malloc maps large
buffers separately and unmaps them when they are freed. But each time it does, it raises the size from which it maps:
later buffers come from the heap, and the freed ones stay there as holes between the packed weights.
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
# The size from which buffers are mapped: glibc's first value while a graph loads, and a larger one afterwards, so that
# a step's logits (half a megabyte for a large vocabulary) come from the heap.
WITHIN_BYTES = 128 << 10
AFTER_BYTES = 4 << 20


@contextlib.contextmanager
def return_freed_memory() -> Iterator[None]:
    """Within the block, large buffers go back to the system when they are freed; so does the heap's free end after it.

    After the block malloc takes buffers of up to AFTER_BYTES from the heap and no longer adapts that size. Without
    glibc nothing happens.
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
