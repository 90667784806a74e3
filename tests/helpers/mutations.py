"""Broken and hostile inputs, made from good ones by seeded changes: of bytes, and of values in JSON documents."""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import numpy as np

# What a value in a document is replaced by.
VALUES: tuple[Any, ...] = (
    *(None, True, False, "", 0, 1, -1, 2, 0.5, -0.0, 1e308, -1e308, 5e-324, 1e15, 1e16, 1e-15, float("nan")),
    *(
        float("inf"),
        float("-inf"),
        10**15,
        2**31,
        2**53,
        2**63,
        2**64,
        -(2**63),
        10**400,
        [],
        {},
        [[]],
        [None],
        {"": {}},
    ),
    *("x" * 5000, "\x1b[2J\x1b]0;owned\x07", "\u202e", "\ud800", "../../etc/passwd", "/dev/zero", "1", "nan", "1e999"),
    *([1, 2, 3], [0.5] * 300, {"a": 1, "b": [2]}, "0" * 64),
)
# Pieces of bytes that break parsers.
PIECES = (
    *(
        b"\x00",
        b"\xff",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\x80\x80\x80\x80\x80\x01",
        b"\xe2\x80\xa8",
        b"\r",
        b"\n\n",
        b'"',
    ),
    *(
        b"[" * 3000,
        b'{"a":' * 3000,
        b"]",
        b"}",
        b",",
        b":",
        b"NaN",
        b"Infinity",
        b"1e999",
        b"-",
        b"9" * 5000,
        b"\\u0000",
    ),
    *(b"null", b"true", b"\x1b[2J", b"\\ud800", b"0x10", b"1_000", b"#", b"'''", b"= = ="),
)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """The bytes after one to four changes: bits flipped, pieces cut out, doubled, put in, or the end cut off."""
    found = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        start = int(rng.integers(0, len(found) + 1))
        size = int(rng.integers(0, 1 + min(40, len(found) - start)))
        match int(rng.integers(0, 7)):
            case 0 if start < len(found):
                found[start] ^= 1 << int(rng.integers(0, 8))
            case 1 if start < len(found):
                found[start] = int(rng.integers(0, 256))
            case 2:
                del found[start : start + size]
            case 3:
                found[start:start] = found[start : start + size]
            case 4:
                found[start : start + size] = PIECES[int(rng.integers(0, len(PIECES)))]
            case 5:
                found[start:start] = rng.bytes(size)
            case _ if rng.integers(0, 4) == 0:
                del found[start:]
            case _:
                pass
    return bytes(found)


def mutated_json(content: bytes, rng: np.random.Generator) -> bytes:
    """A JSON text, or lines of them, after one to three changes of values and keys; one time in three of its bytes."""
    if rng.integers(0, 3) == 0:
        return mutated(content, rng)
    lines = content.decode().split("\n")
    one_document = content.lstrip().startswith(b"{\n") or len(lines) < 3
    texts = [content.decode()] if one_document else lines
    at = int(rng.integers(0, len(texts)))
    if rng.integers(0, 3) == 0:
        at = 0  # the first line says what all others are
    if not texts[at].strip():
        return mutated(content, rng)
    try:
        document = json.loads(texts[at])
    except ValueError:  # a line that is no JSON, such as a digest
        return mutated(content, rng)
    for _ in range(int(rng.integers(1, 4))):
        document = _changed(copy.deepcopy(document), rng)
    texts[at] = json.dumps(document)
    return ("" if one_document else "\n").join(texts).encode("utf-8", "surrogatepass")


def _changed(document: Any, rng: np.random.Generator) -> Any:
    places = list(_places(document))
    if not places:
        return _value(rng)
    holder, key = places[int(rng.integers(0, len(places)))]
    match int(rng.integers(0, 6)):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[str(_value(rng))[:200]] = holder.pop(key)
        case 2 if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        case 3 if isinstance(holder[key], int | float) and -(2**70) < holder[key] < 2**70:
            holder[key] = holder[key] * (10.0 ** int(rng.integers(-30, 30))) * (-1) ** int(rng.integers(0, 2))
        case _:
            holder[key] = _value(rng)
    return document


def _value(rng: np.random.Generator) -> Any:
    return copy.deepcopy(VALUES[int(rng.integers(0, len(VALUES)))])


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a value: what holds it, and its key there."""
    waiting = [document]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else []
        for key in keys:
            yield holder, key
            waiting.append(holder[key])


class HangError(BaseException):
    """Something took too long. No ``except Exception`` swallows it."""


@contextmanager
def limited(seconds: float = 10.0) -> Iterator[None]:
    """Raise HangError if the block takes longer."""

    def late(number: int, frame: FrameType | None) -> NoReturn:
        raise HangError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


Mutation = Callable[[bytes, np.random.Generator], bytes]
