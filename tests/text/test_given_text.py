"""Prompts as bytes: what is no UTF-8 is refused in one line that names the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from balcony_edge import Bundle, PromptError
from balcony_edge.text.codec import TextCodec
from balcony_edge.text.given_text import check_text, decode_bytes
from helpers.command import cli, fails, here

LATIN1 = "café au lait".encode("latin1")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("café".encode(), "café"),
        (b"\xef\xbb\xbfa", "a"),
        (b"a\r\nb\rc\n", "a\nb\nc\n"),
        (b"", ""),
        (b"a\x00b", "a\x00b"),
    ],
)
def test_text(data: bytes, text: str) -> None:
    assert decode_bytes(data, "x") == text


@pytest.mark.parametrize(
    ("data", "said", "hint"),
    [
        (LATIN1, "byte 0xE9 at position 3", "LATIN1"),
        (b"\xef\xbb\xbfcaf\xe9", "byte 0xE9 at position 6", "LATIN1"),
        ("hi".encode("utf-16"), "byte 0xFF at position 0", "UTF-16"),
        (b"ab\xe6\x97", "byte 0xE6 at position 2", "LATIN1"),
        (b"\xed\xa0\x80", "byte 0xED at position 0", "LATIN1"),
    ],
)
def test_bytes_that_are_no_text(data: bytes, said: str, hint: str) -> None:
    with pytest.raises(PromptError) as caught:
        decode_bytes(data, "the prompt")
    assert said in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"), [(LATIN1.decode("utf-8", "surrogateescape"), "byte 0xE9"), ("x\ud83d", "surrogate U\\+D83D")]
)
def test_a_lone_surrogate(text: str, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        check_text(text)
    with pytest.raises(PromptError, match=said):
        TextCodec(Bundle.demo()).encode(text)


def test_the_command_line_names_the_byte(tmp_path: Path) -> None:
    file = tmp_path / "latin1.txt"
    file.write_bytes(LATIN1)
    fails(here("run", "-f", str(file)), "latin1.txt", "0xE9 at position 3")
    fails(here("run", "-", stdin=LATIN1), "stdin", "0xE9 at position 3")
    fails(here("run", "-p", LATIN1.decode("utf-8", "surrogateescape")), "0xE9 at character 3")


def test_a_file_and_stdin_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(b"\xef\xbb\xbfThe little dog")
    given = ["-n", "3", "--no-audit"]
    plain = here("run", "-p", "The little dog", *given)
    assert here("run", "-f", str(tmp_path / "prompt.txt"), *given).stdout == plain.stdout
    assert here("run", "-", *given, stdin=b"\xef\xbb\xbfThe little dog").stdout == plain.stdout


def test_bytes_in_an_argument_of_a_real_process() -> None:
    fails(cli("run", "-p", LATIN1.decode("utf-8", "surrogateescape")), "0xE9")
