"""Which files an ONNX graph refers to, read from its bytes: a device has no onnx package, and asks before it loads.

Only the messages on the way to tensors are entered (onnx.proto's field numbers); all else is skipped by its length.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from balcony_edge.errors import BundleError

# message → {field number: message inside}. Functions and training graphs hold tensors too.
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
    """Raise BundleError unless every tensor of ``graph`` that lies outside it lies in one of the bundle's own files.

    ``name``: the graph's name in the manifest; ``files``: bytes of each file there. Offsets and lengths must fit.
    """
    try:
        for entries in external_tensors(graph.read_bytes()):
            _check(entries, graph, name, files)
    except (IndexError, ValueError) as error:
        raise BundleError(f"{graph} is no ONNX graph that can be read: {error}", AGAIN) from error


def external_tensors(content: bytes) -> Iterator[dict[str, str]]:
    """The external-data entries (location, offset, length, …) of each tensor that has some, wherever it hides.

    Raises ValueError or IndexError for bytes that are no protobuf message.
    """
    # A stack, not recursion: how deep graphs nest is the author's choice.
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
    # A plain name beside the graph: ONNX Runtime gives some longer ones a meaning of their own.
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
    """A StringStringEntryProto: key and value, each at most once."""
    found: dict[int, str] = {}
    for field, value in _fields(message):
        if field in found:
            raise ValueError("an external entry names its key or value twice")
        found[field] = bytes(value).decode()
    return found.get(KEY, ""), found.get(VALUE, "")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, bytes) of the length-delimited fields of a message; numbers are skipped."""
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
