"""What we keep carries a digest: a changed byte is found wherever it is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as to_bytes
from safetensors.numpy import save_file

from balcony_edge.files.reading import UNFITTING
from balcony_edge.files.sealed import sealed, unsealed
from balcony_edge.files.tensors import check_seal, read_metadata, save_arrays, save_tensors

TENSORS = {"a": np.arange(20, dtype=np.float32), "b": np.ones((3, 2), np.float16), "c": np.array(7, np.int64)}


def test_a_text_is_what_was_kept_or_nothing() -> None:
    content = sealed('{"bit_exact": false}')
    assert unsealed(content) == '{"bit_exact": false}'
    changed = [content[:at] + chr(ord(content[at]) ^ 1) + content[at + 1 :] for at in range(len(content))]
    for wrong in (*changed, content[:-1], content + "\n", "\n" + content, "", content.replace("\n", "\r\n")):
        with pytest.raises(ValueError, match="digest"):
            unsealed(wrong)


def test_both_ways_of_writing_seal_alike(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    save_arrays(TENSORS, one, {"of": "ours"})
    # The library puts tensors into an order of its own.
    seal = save_tensors(to_bytes, TENSORS, two, {"of": "ours"})
    assert check_seal(two) == seal
    assert len(check_seal(one)) == len(seal) == 64
    assert read_metadata(one).keys() == read_metadata(two).keys() == {"of", "sha256"}


def test_a_changed_byte_is_found_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    seal = save_tensors(to_bytes, TENSORS, path, {"step": "3"})
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    blanks = {at for at in range(header) if whole[at] == 0x20}
    for at in sorted(set(range(0, len(whole), 2)) - blanks):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(UNFITTING):
            check_seal(path)
    for wrong in (whole[:-1], whole + b"\0", b"", whole[:header]):
        path.write_bytes(wrong)
        with pytest.raises(UNFITTING):
            check_seal(path)
    path.write_bytes(whole)
    assert check_seal(path) == seal


def test_what_has_no_seal_or_is_no_file_is_refused(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "foreign")
    (tmp_path / "list").write_bytes((2).to_bytes(8, "little") + b"[]")
    (tmp_path / "large").write_bytes((1 << 40).to_bytes(8, "little"))
    os.mkfifo(tmp_path / "pipe")
    words = {"foreign": "no digest", "list": "no JSON object", "large": "header has", "pipe": "it is a pipe"}
    for name, said in words.items():
        with pytest.raises(ValueError, match=said):
            check_seal(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        check_seal(tmp_path / "nothing")
