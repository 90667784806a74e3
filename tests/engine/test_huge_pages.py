"""Huge pages: whole blocks of the process's own memory move, their content does not change."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_edge.engine.pages.huge_pages import (
    MADV_COLLAPSE,
    MADV_HUGEPAGE,
    PIECE,
    block_bytes,
    filled,
    huge_pages,
    move,
    runs,
)

BLOCK = 2 << 20
BLOCKS = 6

linux = pytest.mark.skipif(sys.platform != "linux", reason="a thing of Linux")


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    """Fresh private memory of BLOCKS blocks and the pages before the first of them; one page at a time comes to be."""
    with mmap.mmap(-1, (BLOCKS + 1) * BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as fresh:
        fresh.madvise(mmap.MADV_NOHUGEPAGE)
        yield fresh


def first_block(memory: mmap.mmap) -> tuple[int, int]:
    """The address of the first whole block, and its offset in the memory."""
    address = np.frombuffer(memory, np.uint8).ctypes.data
    return -(-address // BLOCK) * BLOCK, -address % BLOCK


@linux
def test_only_blocks_whose_every_page_is_there_are_filled(memory: mmap.mmap) -> None:
    address, offset = first_block(memory)
    ours = set(range(address, address + BLOCKS * BLOCK, BLOCK))
    assert not ours & set(filled(BLOCK))
    memory[offset + BLOCK : offset + 3 * BLOCK] = b"\1" * (2 * BLOCK)
    memory[offset + 4 * BLOCK : offset + 5 * BLOCK - mmap.PAGESIZE] = b"\1" * (BLOCK - mmap.PAGESIZE)
    assert ours & set(filled(BLOCK)) == {address + BLOCK, address + 2 * BLOCK}


@linux
def test_memory_of_files_and_shared_memory_are_left_alone(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    lines = [
        "700000000000-700000800000 rw-p 00000000 fe:00 12                         /models/weights.bin",
        "700001000000-700001800000 rw-s 00000000 00:01 34                         /dev/zero (deleted)",
        "700002000000-700002800000 r--p 00000000 00:00 0",
        "700003000000-700003800000 rw-p 00000000 00:00 0                          [stack]",
        "",
    ]
    maps.write_text("\n".join(lines))
    assert list(filled(BLOCK, maps)) == []
    assert list(filled(BLOCK, tmp_path / "none")) == []


@linux
def test_what_is_filled_within_keeps_its_content(memory: mmap.mmap, tmp_path: Path) -> None:
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    (tmp_path / "hpage_pmd_size").write_text(f"{BLOCK}\n")
    memory.madvise(mmap.MADV_HUGEPAGE)
    content = np.random.default_rng(5).bytes(len(memory))
    with huge_pages(tmp_path):
        memory[:] = content
    assert memory[:] == content


class Kernel:
    """A madvise that moves memory below ``room`` and marks what ``marks`` allows; what it was asked for."""

    def __init__(self, room: int, marks: bool = True) -> None:
        self.room, self.marks = room, marks
        self.moved: list[tuple[int, int]] = []
        self.marked: list[tuple[int, int]] = []

    def __call__(self, start: int, size: int, advice: int) -> int:
        """0 where the advice is taken."""
        taken = start + size <= self.room if advice == MADV_COLLAPSE else self.marks and advice == MADV_HUGEPAGE
        if taken:
            (self.moved if advice == MADV_COLLAPSE else self.marked).append((start, start + size))
        return 0 if taken else -1


STRETCHES = [(0, 20), (30, 50), (60, 70)]


@pytest.mark.parametrize(("room", "count"), [(0, 0), (20, 1), (49, 1), (50, 2), (99, 3)])
@pytest.mark.parametrize("marks", [False, True])
def test_what_the_system_has_no_room_for_is_marked(room: int, count: int, marks: bool) -> None:
    kernel = Kernel(room, marks)
    move(STRETCHES, kernel, lambda: True)
    assert kernel.moved == STRETCHES[:count]
    assert kernel.marked == (STRETCHES[count:] if marks else [])


def test_what_there_is_no_time_for_is_marked() -> None:
    kernel, left = Kernel(99), iter([True, False])
    move(STRETCHES, kernel, lambda: next(left))
    assert (kernel.moved, kernel.marked) == (STRETCHES[:1], STRETCHES[1:])


@given(st.sets(st.integers(0, 200)))
def test_stretches_are_the_blocks(blocks: set[int]) -> None:
    found = list(runs(sorted(blocks), 1))
    assert sorted(blocks) == [block for start, stop in found for block in range(start, stop)]
    assert all(0 < stop - start <= PIECE for start, stop in found)


def test_the_systems_setting_and_the_users_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BALCONY_HUGE_PAGES", raising=False)
    assert block_bytes(tmp_path) == 0
    (tmp_path / "hpage_pmd_size").write_text("2097152\n")
    for setting, size in (("always [madvise] never", BLOCK), ("[always] madvise never", BLOCK), ("[never]", 0)):
        (tmp_path / "enabled").write_text(setting)
        assert block_bytes(tmp_path) == size
    (tmp_path / "enabled").write_text("[always] madvise never")
    monkeypatch.setenv("BALCONY_HUGE_PAGES", "0")
    assert block_bytes(tmp_path) == 0


def test_an_error_within_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "enabled").write_text("[madvise]")
    (tmp_path / "hpage_pmd_size").write_text(f"{BLOCK}\n")
    with pytest.raises(ValueError, match="no graph"), huge_pages(tmp_path):
        raise ValueError("no graph")
