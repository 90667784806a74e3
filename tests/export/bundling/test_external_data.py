"""The device's own reader of ONNX files against the onnx package."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.descriptor import Descriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from balcony_edge.bundle.external_data import CHILDREN, external_tensors
from helpers.effort import examples
from helpers.mutations import mutated
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


def _by_onnx(content: bytes) -> list[dict[str, str]] | None:
    """What the onnx package finds in the whole model; None if it cannot read it."""
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception:  # protobuf's DecodeError has no home of its own in all versions
        return None
    found: list[dict[str, str]] = []
    waiting: list[Any] = [model]
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto):
            if message.external_data:
                found.append({one.key: one.value for one in message.external_data})
            continue
        for number in CHILDREN[type(message).__name__.removesuffix("Proto")]:
            inside = getattr(message, message.DESCRIPTOR.fields_by_number[number].name)
            waiting += inside if hasattr(inside, "add") else [inside]
    return found


def _by_us(content: bytes) -> list[dict[str, str]] | None:
    try:
        return list(external_tensors(content))
    except (IndexError, ValueError):
        return None


def _same(content: bytes) -> bool:
    """Whatever we take, onnx finds no other tensors in. Returns whether we take it."""
    ours, theirs = _by_us(content), _by_onnx(content)
    if ours is not None and theirs is not None:
        assert sorted(map(str, ours)) == sorted(map(str, theirs)), content.hex()
    return ours is not None


@settings(max_examples=examples(60))
@given(data=st.data(), location=st.text(max_size=40))
def test_broken_models_hide_no_tensor(data: st.DataObject, location: str) -> None:
    """Bytes are changed, cut and doubled, and numbers get bytes that they do not need."""
    content = data.draw(st.composite(_model)(location)).SerializeToString()
    assert _same(content)
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    for _ in range(40):
        _same(mutated(content, rng))


@pytest.mark.long
def test_many_broken_models_hide_no_tensor(tiny_bundles: MakeBundle) -> None:
    bundle = tiny_bundles("int4", "bit")
    rng = np.random.default_rng(22)
    taken = 0
    for graph in bundle.manifest.graphs:
        whole = bundle.file(graph.file).read_bytes()
        small = onnx.load_from_string(whole)
        del small.graph.node[2:], small.graph.initializer[3:]
        content = small.SerializeToString()
        taken += sum(_same(mutated(content, rng)) for _ in range(20_000 // len(bundle.manifest.graphs)))
    assert taken > 1000


@settings(max_examples=examples(60))
@given(data=st.data(), location=st.text(max_size=300))
def test_it_finds_a_tensor_anywhere(data: st.DataObject, location: str) -> None:
    content = data.draw(st.composite(_model)(location)).SerializeToString()
    assert list(external_tensors(content)) == [{"location": location}]
