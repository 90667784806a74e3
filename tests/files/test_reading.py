"""Readers bound what they read, and explain what is wrong with it."""

from __future__ import annotations

import gzip
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_edge.errors import RecordingError
from balcony_edge.files import reading, values
from balcony_edge.files.reading import MOST_LEVELS, Reader, leads_out, parse_json, read_bytes

READER = Reader("the thing", RecordingError, "make it again", most_bytes=1000)


def test_a_good_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, 2.5, "ü"]}')
    assert READER.object(tmp_path / "a.json") == {"a": [1, 2.5, "ü"]}
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"x" * 1000))
    assert READER.unpacked(tmp_path / "a.gz") == b"x" * 1000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x" * 1001, "it has 1001 bytes; 1000 are the most"),
        (b"\xff", "utf-8"),
        (b"[1]", "no JSON object"),
        (b"{", "Expecting"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "infinite or too large"),
        (b'{"a": ' + b"9" * 100 + b"}", "infinite or too large"),
        (b"[" * 500 + b"]" * 500, "levels deep"),
        (b"[" * 900, "."),
    ],
)
def test_what_is_wrong_is_said(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(RecordingError, match=words) as caught:
        READER.object(tmp_path / "a")
    assert caught.value.message.startswith(f"cannot read the thing {tmp_path / 'a'}: ")
    assert caught.value.hint == "make it again"


def test_what_unpacks_to_too_much(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(bytes(100_000)))
    with pytest.raises(RecordingError, match="unpacks to more than 1000"):
        READER.unpacked(tmp_path / "a")
    (tmp_path / "a").write_bytes(gzip.compress(b"x")[:-4])
    with pytest.raises(RecordingError, match="cannot read the thing"):
        READER.unpacked(tmp_path / "a")


def test_numbers_of_other_programs_may_be_large() -> None:
    assert parse_json('{"model_max_length": 1000000000000000019884624838656}', any_numbers=True)


def test_the_deepest_document() -> None:
    assert parse_json("[" * MOST_LEVELS + "]" * MOST_LEVELS)
    with pytest.raises(ValueError, match="deep"):
        parse_json("[" * (MOST_LEVELS + 1) + "]" * (MOST_LEVELS + 1))


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(), st.lists))
def test_other_documents_are_read_as_usual(document: Any) -> None:
    text = json.dumps(document)
    assert parse_json(text) == json.loads(text)


# --- pipes ------------------------------------------------------------------------------------------------------------


def test_a_slow_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        with (tmp_path / "pipe").open("wb") as stream:
            for _ in range(3):
                time.sleep(0.02)
                stream.write(b"abc")
                stream.flush()

    writer = threading.Thread(target=write)
    writer.start()
    assert read_bytes(tmp_path / "pipe", 100) == b"abcabcabc"
    writer.join()


def test_a_pipe_that_never_ends(tmp_path: Path) -> None:
    read, write = os.pipe()
    try:
        os.write(write, b"x" * 5000)
        with pytest.raises(ValueError, match="more than 1000 bytes"):
            read_bytes(Path(f"/dev/fd/{read}"), 1000)
    finally:
        os.close(read)
        os.close(write)


def test_a_pipe_without_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PIPE_LIMIT_S", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="nobody wrote to it"):
        read_bytes(tmp_path / "pipe", 100)
    with pytest.raises(ValueError, match="it is a pipe, no plain file"):
        read_bytes(tmp_path / "pipe", 100, pipes=False)


def test_links_that_lead_out(tmp_path: Path) -> None:
    inside = tmp_path / "folder"
    inside.mkdir()
    (inside / "file").write_text("x")
    for name, to in (("in", "file"), ("out", "../secret"), ("far", "/etc/passwd"), ("circle", "circle")):
        (inside / name).symlink_to(to)
    assert [leads_out(inside / name, inside) for name in ("file", "in", "out", "far", "circle")] == [
        *(False, False, True, True, True)
    ]


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, True, "1", float("nan"), float("inf"), 1e16, [1], {}])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(ValueError, match="the size is"):
        values.number(value, "the size")


@pytest.mark.parametrize("value", [None, True, 1.0, -1, 1 << 60, "1"])
def test_what_is_no_whole_number(value: Any) -> None:
    with pytest.raises(ValueError, match="the count is"):
        values.whole(value, "the count")


def test_the_other_values() -> None:
    assert values.number(2, "x") == 2.0
    assert values.optional(None, "x") is None
    for check, wrong in ((values.flag, 1), (values.text, b"x"), (values.listed, ()), (values.mapping, [])):
        with pytest.raises(ValueError, match="x is"):
            check(wrong, "x")  # type: ignore[operator]
    assert len(values.brief("y" * 10_000)) < 100
