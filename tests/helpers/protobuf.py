"""Bytes of protobuf messages, written by hand so that they can be broken by hand."""

from __future__ import annotations


def varint(value: int) -> bytes:
    """A number as protobuf writes it: 7 bits a byte."""
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def entry(key: str, value: str) -> bytes:
    """An entry of a tensor's external data."""
    return field(13, field(1, key.encode()) + field(2, value.encode()))
