"""Text as a user gives it: bytes of a file or of stdin, or an argument. What is no text is refused by its byte."""

from __future__ import annotations

from pathlib import Path

from balcony_edge.errors import PromptError
from balcony_edge.files.reading import Reader

READER = Reader("the prompt file", PromptError, "give a UTF-8 text file")
UTF16 = (b"\xff\xfe", b"\xfe\xff")


def decode_bytes(data: bytes, what: str) -> str:
    """UTF-8 as text, without a byte order mark, lines ended by ``\\n``. ``what``: what errors call it.

    Raises PromptError, which names the first byte that is no UTF-8.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if data.startswith(UTF16) else "LATIN1"
        # A byte order mark that was left out does not count for the error's position.
        where = error.start + 3 * data.startswith(b"\xef\xbb\xbf")
        raise PromptError(
            f"{what} is no UTF-8: byte 0x{data[where]:02X} at position {where}",
            f"convert it first: iconv -f {kind} -t UTF-8",
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_file(path: Path) -> str:
    """The text of a prompt file. Raises PromptError if it cannot be read or is no UTF-8."""
    return decode_bytes(READER.content(path), f"the prompt file {path}")


def check_text(text: str) -> str:
    """Return the text. Raises PromptError for a lone surrogate, which an argument has for a byte that is no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        # Python keeps a byte of an argument that is no UTF-8 as one of these.
        is_byte = 0xDC80 <= code <= 0xDCFF
        found = f"byte 0x{code - 0xDC00:02X}" if is_byte else f"the lone surrogate U+{code:04X}"
        raise PromptError(
            f"the prompt is no UTF-8: {found} at character {error.start}",
            "convert it first: iconv -f LATIN1 -t UTF-8" if is_byte else "remove it, or write the whole character",
        ) from error
    return text
