"""Checks which files an ONNX graph takes weights from, before ONNX Runtime loads it.

A device has no onnx package, so the graph's bytes are parsed here. Only the protobuf messages on the way to tensors are
read (field numbers of onnx.proto); everything else is skipped by its length.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from balcony_edge.errors import BundleError

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
KEY, VALUE = 1, 2
AGAIN = "do not use this bundle unless you know who made it; export it again"


def check_external_data(graph: Path, name: str, files: dict[str, int]) -> None:
    """Raise BundleError unless all weights outside of ``graph`` lie within the bundle's own files.

    ``name``: the graph's name in the manifest. ``files``: size in bytes of each file that the manifest lists.
    """
    try:
        for entries in external_tensors(graph.read_bytes()):
            _check(entries, graph, name, files)
    except (IndexError, ValueError) as error:
        raise BundleError(f"{graph} is no ONNX graph that can be read: {error}", AGAIN) from error


def external_tensors(content: bytes) -> Iterator[dict[str, str]]:
    """The external-data entries (location, offset, length, …) of every tensor in the graph that has any.

    ``content``: the graph's bytes. Raises ValueError or IndexError if they are not a protobuf message.
    """
    # A stack and not recursion: a hostile graph may nest as deeply as it likes.
    stack = [("Model", memoryview(content))]
    while stack:
        kind, message = stack.pop()
        entries: dict[str, str] = {}
        for field, value in _fields(message):
            inside = CHILDREN[kind].get(field)
            if inside == "Entry":
                key, text = _entry(value)
                if key in entries:
                    raise ValueError(f"a tensor has two external entries {key!r}")
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
    found: dict[int, str] = {}
    for field, value in _fields(message):
        if field in found:
            raise ValueError("an external entry names its key or value twice")
        found[field] = bytes(value).decode()
    return found.get(KEY, ""), found.get(VALUE, "")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, bytes) of each length-delimited field of a message; fields with numbers are skipped."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        wire = tag & 7
        if wire == 0:
            _, position = _varint(message, position)
            continue
        if wire == 2:
            size, position = _varint(message, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
        if size > len(message) - position:
            raise ValueError("a field is longer than its message")
        if wire == 2:
            yield tag >> 3, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than 10 bytes")
