"""Layouts read from strangers' graphs: tensors that fill the weights file and nothing else, or a clear refusal."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_edge import Bundle
from balcony_edge.bundle.manifest import FileEntry, Manifest
from balcony_edge.errors import BundleError
from balcony_export.graphs.layout import carried, frequent_tokens, read_layout
from balcony_export.graphs.weights import ALIGNMENT, Place

# (name, offset, length, location) of a tensor.
Tensor = tuple[str, object, object, str]


def manifest(*files: str, size: int) -> Manifest:
    entries = dict.fromkeys(files, FileEntry(bytes=0, sha256="")) | {"weights.bin": FileEntry(bytes=size, sha256="")}
    return Bundle.demo().manifest.model_copy(update={"files": entries})


def write(path: Path, tensors: list[Tensor]) -> None:
    graph = onnx.GraphProto(name="g")
    for name, offset, length, location in tensors:
        tensor = graph.initializer.add(name=name, data_type=onnx.TensorProto.UINT8, dims=[1])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(onnx.ModelProto(graph=graph).SerializeToString())


def test_all_graphs_together_fill_the_file(tmp_path: Path) -> None:
    first = ("a", 0, 5000, "weights.bin")
    write(tmp_path / "a.onnx", [first, ("rope.cos", 8192, 8, "weights.bin")])
    write(tmp_path / "b.onnx", [first, ("a.again", 0, 5000, "weights.bin"), ("exits.3.norm", 12288, 1, "weights.bin")])
    layout = read_layout(tmp_path, manifest("a.onnx", "b.onnx", size=12289))
    assert layout["a"] == Place(0, 5000, (1,), onnx.TensorProto.UINT8)
    assert carried(layout, "trained") == ["rope.cos", "exits.3.norm"]
    assert carried(layout, "init") == ["rope.cos"]
    with pytest.raises(BundleError, match="do not fill"):
        read_layout(tmp_path, manifest("a.onnx", "b.onnx", size=1 << 50))
    with pytest.raises(BundleError, match="gaps"):
        read_layout(tmp_path, manifest("b.onnx", size=12289))


@pytest.mark.parametrize(
    "second",
    [
        ("a", 0, 4000, "weights.bin"),
        ("b", 0, 10, "../secret"),
        ("b", -1, 10, "weights.bin"),
        ("b", "٣", 1, "weights.bin"),
    ],
)
def test_places_that_cannot_be(tmp_path: Path, second: Tensor) -> None:
    write(tmp_path / "a.onnx", [("a", 0, 5000, "weights.bin"), second])
    with pytest.raises(BundleError, match="where it cannot be"):
        read_layout(tmp_path, manifest("a.onnx", size=5000))


NUMBERS = st.one_of(
    st.sampled_from([0, 1, ALIGNMENT - 1, ALIGNMENT, 2 * ALIGNMENT]), st.integers(-5, 1 << 70), st.text(max_size=4)
)
TENSORS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "exits.1.x", "rope.cos", "l.key_scale"]),
        NUMBERS,
        NUMBERS,
        st.sampled_from(["weights.bin", "weights.bin", "other"]),
    ),
    max_size=4,
)


@given(tensors=TENSORS, size=st.integers(0, 4 * ALIGNMENT))
def test_a_layout_fills_the_file_or_is_refused(tensors: list[Tensor], size: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        write(Path(place) / "a.onnx", tensors)
        try:
            layout = read_layout(Path(place), manifest("a.onnx", size=size))
        except BundleError:
            return
    spans = sorted({(found.offset, found.offset + found.length) for found in layout.values()})
    assert all(0 <= after[0] - before[1] < ALIGNMENT for before, after in pairwise(spans))
    assert not spans or spans[0][0] == 0
    assert size == (spans[-1][1] if spans else 0)


@given(content=st.binary(max_size=64))
def test_bytes_that_are_no_graph(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "a.onnx").write_bytes(content)
        with suppress(BundleError):
            assert read_layout(Path(place), manifest("a.onnx", size=0)) == {}


@pytest.mark.parametrize("tokens", [None, [[1, 2]], [2, 1], [-1, 2], [1, 99_999], [], [1.0, 2.0]])
def test_frequent_tokens_that_cannot_be(tmp_path: Path, tokens: list[int] | None) -> None:
    demo = Bundle.demo()
    assert len(frequent_tokens(demo.path, demo.manifest)) > 2
    graph = onnx.GraphProto(name="g")
    if tokens is not None:
        kind = (
            onnx.TensorProto.FLOAT if 1.0 in tokens and 2.0 in tokens and len(tokens) == 2 else onnx.TensorProto.INT64
        )
        values = [value for row in tokens for value in (row if isinstance(row, list) else [row])]
        dims = [1, 2] if tokens == [[1, 2]] else [len(tokens)]
        graph.initializer.append(onnx.helper.make_tensor("peeked", kind, dims, values))
    for exit_graph in demo.manifest.exits:
        (tmp_path / exit_graph.file).write_bytes(onnx.ModelProto(graph=graph).SerializeToString())
    with pytest.raises(BundleError, match="frequent tokens"):
        frequent_tokens(tmp_path, demo.manifest)
