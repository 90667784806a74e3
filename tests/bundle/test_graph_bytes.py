"""What protobuf's parsers read in different ways is refused: ONNX Runtime must see the graph that was checked."""

from __future__ import annotations

import pytest

from balcony_edge.bundle import external_data
from balcony_edge.bundle.external_data import external_tensors
from helpers.protobuf import entry, field, varint

INSIDE = entry("location", "weights.bin")
OUTSIDE = entry("location", "../secret")


def model(*tensors: bytes) -> bytes:
    """A model whose graph has these initialisers."""
    return field(7, b"".join(field(5, tensor) for tensor in tensors))


def found(content: bytes) -> list[dict[str, str]]:
    return list(external_tensors(content))


def test_a_usual_model() -> None:
    assert found(model(INSIDE, OUTSIDE)) == [{"location": "../secret"}, {"location": "weights.bin"}]


@pytest.mark.parametrize("bit", [32, 33, 40, 63])
def test_a_tag_of_more_than_32_bits(bit: int) -> None:
    """ONNX Runtime's parser drops the upper bits and reads field 7, the graph; others skip an unknown field."""
    tag = varint((7 << 3 | 2) | 1 << bit)
    inside = field(5, OUTSIDE)
    with pytest.raises(ValueError, match="32 bits"):
        found(tag + varint(len(inside)) + inside)


def test_a_tag_with_more_bytes_than_it_needs() -> None:
    with pytest.raises(ValueError, match="more bytes than it needs"):
        found(b"\xba\x80\x00" + varint(0))


def test_a_length_with_more_bytes_than_it_needs() -> None:
    with pytest.raises(ValueError, match="more bytes than it needs"):
        found(b"\x3a\x80\x00")


def test_lengths_and_numbers_that_are_too_large() -> None:
    with pytest.raises(ValueError, match="31 bits"):
        found(b"\x3a" + varint(1 << 31))
    with pytest.raises(ValueError, match="64 bits"):
        found(b"\x08" + b"\xff" * 9 + b"\x02")
    assert found(b"\x08" + b"\xff" * 9 + b"\x01") == []  # -1


@pytest.mark.parametrize("wire", [3, 4, 6, 7])
def test_groups_and_unknown_wire_types(wire: int) -> None:
    with pytest.raises(ValueError, match="wire type"):
        found(varint(7 << 3 | wire) + b"\x00")


def test_a_field_of_the_number_zero() -> None:
    with pytest.raises(ValueError, match="number 0"):
        found(b"\x02\x00")


def test_two_graphs_would_be_merged() -> None:
    """Each alone names a file of the bundle; together their tensors could not be told apart."""
    with pytest.raises(ValueError, match="there twice"):
        found(model(INSIDE) + model(INSIDE))


@pytest.mark.parametrize("number", [5, 6])
def test_two_tensors_or_graphs_of_an_attribute(number: int) -> None:
    part = INSIDE if number == 5 else field(5, INSIDE)
    attribute = field(number, part) * 2
    with pytest.raises(ValueError, match="there twice"):
        found(field(7, field(1, field(5, attribute))))


def test_entries_that_nobody_writes() -> None:
    """ONNX Runtime knows more of them, such as weights that it has packed before, at places that are not checked."""
    with pytest.raises(ValueError, match="prepacked_0"):
        found(model(INSIDE + entry("prepacked_0", "1;2;3|x")))


def test_more_fields_than_any_graph_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_data, "MOST_FIELDS", 100)
    with pytest.raises(ValueError, match="fields"):
        found(field(7, b"\x0a\x00" * 101))
