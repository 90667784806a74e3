"""The device's own reader of ONNX files against the onnx package."""

from __future__ import annotations

from typing import Any

import onnx
from google.protobuf.descriptor import Descriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from balcony_edge.bundle.external_data import CHILDREN, external_tensors
from helpers.effort import examples
from helpers.places import MakeBundle


def test_the_table_leads_to_every_tensor_of_the_format() -> None:
    """All messages of onnx.proto through which a TensorProto can be reached, and no other."""
    edges: dict[Descriptor, dict[int, Descriptor]] = {}
    waiting: list[Descriptor] = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        if message not in edges:
            edges[message] = {field.number: field.message_type for field in message.fields if field.message_type}
            waiting += edges[message].values()
    leading = {onnx.TensorProto.DESCRIPTOR}
    while more := {message for message, inside in edges.items() if leading & set(inside.values())} - leading:
        leading |= more
    found = {
        message.name.removesuffix("Proto"): {
            number: inside.name.removesuffix("Proto") for number, inside in edges[message].items() if inside in leading
        }
        for message in leading
    }
    found["Tensor"] = {onnx.TensorProto.EXTERNAL_DATA_FIELD_NUMBER: "Entry"}
    assert found == CHILDREN


def test_it_finds_what_the_exporter_wrote(tiny_bundles: MakeBundle) -> None:
    bundle = tiny_bundles("int4", "bit")
    for graph in bundle.manifest.graphs:
        content = bundle.file(graph.file).read_bytes()
        tensors = onnx.load_from_string(content).graph.initializer
        expected = [{e.key: e.value for e in tensor.external_data} for tensor in tensors if tensor.external_data]
        found = list(external_tensors(content))
        assert len(found) > 0
        assert sorted(map(str, found)) == sorted(map(str, expected))


def _model(draw: st.DrawFn, location: str) -> onnx.ModelProto:
    """A model with a tensor somewhere among its messages, by a random walk through the format."""
    model = onnx.ModelProto()
    message: Any = model
    while not isinstance(message, onnx.TensorProto):
        kind = type(message).__name__.removesuffix("Proto")
        number = draw(st.sampled_from(sorted(CHILDREN[kind])))
        name = message.DESCRIPTOR.fields_by_number[number].name
        inside = getattr(message, name)
        message = inside.add() if hasattr(inside, "add") else inside
    message.name = draw(st.text(max_size=200))
    message.raw_data = draw(st.binary(max_size=200))
    entry = message.external_data.add()
    entry.key, entry.value = "location", location
    return model


@settings(max_examples=examples(60))
@given(data=st.data(), location=st.text(max_size=300))
def test_it_finds_a_tensor_anywhere(data: st.DataObject, location: str) -> None:
    content = data.draw(st.composite(_model)(location)).SerializeToString()
    assert list(external_tensors(content)) == [{"location": location}]
