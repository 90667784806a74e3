"""Mapped files: what was only read is released and comes back, what was written stays."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from balcony_edge import AdaptiveSession
from balcony_edge.engine.pages.mapped import release_pages, unwritten

PAGES = 64
SIZE = PAGES * mmap.PAGESIZE
SMAPS = """\
7f0000000000-7f0000010000 rw-p 00000000 fe:00 12                         /models/a b/weights.bin
Rss:                  40 kB
Anonymous:             0 kB
VmFlags: rd wr mr
7f0000010000-7f0000020000 rw-p 00010000 fe:00 12                         /models/a b/weights.bin
Rss:                  64 kB
Anonymous:             4 kB
7f0000030000-7f0000040000 rw-p 00000000 fe:00 13                         /models/a bc/weights.bin
Rss:                  64 kB
Anonymous:             0 kB
7f0000050000-7f0000060000 rw-p 00000000 00:00 0
Rss:                  64 kB
Anonymous:             0 kB
"""


def test_only_unwritten_mappings_of_the_folder_count() -> None:
    assert list(unwritten(SMAPS, Path("/models/a b"))) == [(0x7F0000000000, 0x7F0000010000, 40 << 10)]


@pytest.mark.skipif(sys.platform != "linux", reason="a thing of Linux")
@pytest.mark.parametrize("written", [False, True])
def test_pages_are_released_and_come_back_as_they_were(written: bool, tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    content = bytes(range(256)) * (SIZE // 256)
    file.write_bytes(content)
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), SIZE, access=mmap.ACCESS_COPY) as mapped:
        assert mapped[:] == content
        if written:
            mapped[5] = 77
        released = release_pages(tmp_path)
        assert (released == 0) if written else (released > 0)
        assert mapped[5] == (77 if written else content[5])
        assert mapped[6:] == content[6:]


def test_without_a_list_of_mappings_nothing_happens(tmp_path: Path) -> None:
    assert release_pages(tmp_path, tmp_path / "smaps") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="a thing of Linux")
def test_a_loaded_session_holds_few_pages_of_its_file() -> None:
    with AdaptiveSession(provider="cpu") as session:
        session.ladder.append([1, 2, 3])
        before = session.ladder.next_logits(session.ladder.full).copy()
        release_pages(session.bundle.path)
        session.ladder.rewind(0)
        session.ladder.append([1, 2, 3])
        assert (session.ladder.next_logits(session.ladder.full) == before).all()
