"""What is freed while a graph loads goes back to the system."""

from __future__ import annotations

import pytest

from balcony_edge.engine.pages import heap
from balcony_edge.engine.pages.heap import return_freed_memory
from helpers.native import python

glibc = pytest.mark.skipif(heap._glibc() is None, reason="a thing of glibc")


# In a process of its own: another test's leavings, freed meanwhile, would be counted.
HOLES = """
import ctypes, json
import psutil
from balcony_edge.engine.pages.heap import return_freed_memory
MEGABYTE = 1 << 20
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
process = psutil.Process()
grown = []
with return_freed_memory():
    before = process.memory_info().rss
    for _ in range(64):
        large, small = libc.malloc(MEGABYTE), libc.malloc(4096)
        ctypes.memset(large, 1, MEGABYTE)
        ctypes.memset(small, 1, 4096)
        libc.free(large)
    grown.append(process.memory_info().rss - before)
    larges = [libc.malloc(MEGABYTE) for _ in range(64)]
    for large in larges:
        ctypes.memset(large, 1, MEGABYTE)
    grown.append(process.memory_info().rss - before)
    for large in larges:
        libc.free(large)
grown.append(process.memory_info().rss - before)
print(json.dumps([bytes / MEGABYTE for bytes in grown]))
"""


@glibc
def test_a_buffer_freed_between_others_leaves_no_hole() -> None:
    between, held, after = python(HOLES)
    assert between < 8
    assert held > 60
    assert after < 8


def test_elsewhere_than_with_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    heap._glibc.cache_clear()
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    try:
        with return_freed_memory():
            assert heap._glibc() is None
    finally:
        heap._glibc.cache_clear()


def test_the_thresholds_are_left_where_steps_of_decoding_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int, int]] = []

    class Libc:
        def mallopt(self, name: int, value: int) -> int:
            calls.append(("mallopt", name, value))
            return 1

        def malloc_trim(self, pad: int) -> int:
            calls.append(("trim", 0, pad))
            return 1

    monkeypatch.setattr(heap, "_glibc", Libc)
    with pytest.raises(ValueError, match="no graph"), return_freed_memory():
        raise ValueError("no graph")
    assert calls == [
        ("mallopt", heap.M_MMAP_THRESHOLD, heap.WITHIN_BYTES),
        ("trim", 0, 0),
        ("mallopt", heap.M_MMAP_THRESHOLD, heap.AFTER_BYTES),
        ("mallopt", heap.M_TRIM_THRESHOLD, 2 * heap.AFTER_BYTES),
    ]
