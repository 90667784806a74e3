"""Checks which files an ONNX graph takes weights from, before ONNX Runtime loads it.

A device has no onnx package, so the graph's bytes are parsed here. Only the protobuf messages on the way to tensors are
read (field numbers of onnx.proto); everything else is skipped by its length.

ONNX Runtime must not see another graph than this parser does. So whatever protobuf's parsers read in different ways, or
what no program writes, is refused: tags of more than 32 bits (some drop the upper ones), numbers with more bytes than
they need, groups, one message where there can be one only written twice (they are merged).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from balcony_edge.errors import BundleError
from balcony_edge.files.reading import read_bytes

# Message → {field number: message in that field}. Functions and training graphs contain tensors too.
CHILDREN = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
# Of these there is one at most: protobuf would merge several, tensors and all.
SINGLE = {
    "Model": {7},
    "TrainingInfo": {1, 2},
    "Attribute": {5, 6, 22},
    "SparseTensor": {1, 2},
    "Entry": {1, 2},
}
KEY, VALUE = 1, 2
# What a tensor may say of its bytes elsewhere. ONNX Runtime knows others too: bytes that it has packed before.
ENTRIES = frozenset({"location", "offset", "length", "checksum"})
# protobuf's own limit on a message, and the most fields of a graph: beyond, only the check would take minutes.
MOST_BYTES, MOST_FIELDS = (1 << 31) - 1, 4_000_000
# Bits of a tag, of a length, and of any other number.
TAG_BITS, LENGTH_BITS, VALUE_BITS = 32, 31, 64
AGAIN = "do not use this bundle unless you know who made it; export it again"


def check_external_data(graph: Path, name: str, files: dict[str, int]) -> None:
    """Raise BundleError unless all weights outside of ``graph`` lie within the bundle's own files.

    ``name``: the graph's name in the manifest. ``files``: size in bytes of each file that the manifest lists.
    """
    try:
        for entries in external_tensors(read_bytes(graph, MOST_BYTES, pipes=False)):
            _check(entries, graph, name, files)
    except (IndexError, OSError, ValueError) as error:
        raise BundleError(f"{graph} is no ONNX graph that can be read: {error}", AGAIN) from error


def external_tensors(content: bytes) -> Iterator[dict[str, str]]:
    """The external-data entries (location, offset, length, …) of every tensor in the graph that has any.

    ``content``: the graph's bytes. Raises ValueError or IndexError if they are not a protobuf message.
    """
    # A stack and not recursion: a hostile graph may nest as deeply as it likes.
    stack = [("Model", memoryview(content))]
    left = MOST_FIELDS
    while stack:
        kind, message = stack.pop()
        entries: dict[str, str] = {}
        for field, value in _fields(message, SINGLE.get(kind, set())):
            left -= 1
            if not left:
                raise ValueError(f"it has more than {MOST_FIELDS} fields")
            inside = CHILDREN[kind].get(field)
            if inside == "Entry":
                key, text = _entry(value)
                if key in entries:
                    raise ValueError(f"a tensor has two external entries {key!r}")
                if key not in ENTRIES:
                    raise ValueError(f"a tensor has an external entry {key!r}")
                entries[key] = text
            elif inside is not None:
                stack.append((inside, value))
        if entries:
            yield entries


def _check(entries: dict[str, str], graph: Path, name: str, files: dict[str, int]) -> None:
    location = entries.get("location", "")
    place = str(PurePosixPath(name).parent / location)
    # Only a plain file name beside the graph is allowed: ONNX Runtime treats some paths specially.
    if location != PurePosixPath(location).name or place not in files:
        raise BundleError(f"{graph} takes weights from {location!r}, which is none of the bundle's files", AGAIN)
    offset = _number(entries, "offset", 0)
    length = _number(entries, "length", 0)
    if offset + length > files[place]:
        raise BundleError(f"{graph} takes weights from beyond the end of {location}", AGAIN)


def _number(entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"external {key} {text!r} is no number of bytes")
    return int(text)


def _entry(message: memoryview) -> tuple[str, str]:
    """Key and value of a StringStringEntryProto. Raises ValueError if one of them is there twice."""
    found = {field: bytes(value).decode() for field, value in _fields(message, SINGLE["Entry"])}
    return found.get(KEY, ""), found.get(VALUE, "")


def _fields(message: memoryview, single: Collection[int]) -> Iterator[tuple[int, memoryview]]:
    """(field number, bytes) of each length-delimited field of a message; fields with numbers are skipped.

    Raises ValueError if one of the fields ``single`` is there twice.
    """
    position = 0
    seen: set[int] = set()
    while position < len(message):
        tag, position = _varint(message, position, TAG_BITS)
        wire, field = tag & 7, tag >> 3
        if field == 0:
            raise ValueError("a field has the number 0")
        if wire == 0:
            _, position = _varint(message, position, VALUE_BITS)
            continue
        if wire == 2:
            size, position = _varint(message, position, LENGTH_BITS)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
        if size > len(message) - position:
            raise ValueError("a field is longer than its message")
        if wire == 2:
            if field in seen:
                raise ValueError(f"the field {field} is there twice")
            if field in single:
                seen.add(field)
            yield field, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int, bits: int) -> tuple[int, int]:
    """The number at a position and the position after it. Raises ValueError unless it is written as protobuf does."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift >= bits:
            raise ValueError(f"a number of more than {bits} bits")
    if value >> bits:
        raise ValueError(f"a number of more than {bits} bits")
    if not byte and shift:
        raise ValueError("a number with more bytes than it needs")
    return value, position
