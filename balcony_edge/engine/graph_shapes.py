"""Checks that a graph takes and gives what the manifest says, before memory is made for it and bound to it."""

from __future__ import annotations

from typing import Any

from balcony_edge.bundle.manifest import Architecture, Formats, Graph
from balcony_edge.errors import BundleError
from balcony_edge.system.terminal import cell

TYPES = {
    "fp32": "tensor(float)",
    "fp16": "tensor(float16)",
    "bf16": "tensor(bfloat16)",
    "int8": "tensor(int8)",
    "int32": "tensor(int32)",
    "int64": "tensor(int64)",
}
AGAIN = "export the bundle again; if it comes from somebody else, do not use it"

# Type and shape of a tensor. None: a dimension that differs from call to call.
_Tensor = tuple[str, tuple[int | None, ...]]


def check_graph(session: Any, graph: Graph, arch: Architecture, formats: Formats, where: str) -> None:
    """Raise BundleError unless a session's inputs and outputs are those that the manifest's sizes ask for.

    ``where``: how messages call the graph's file.
    """
    hidden: _Tensor = (formats.activations, (1, None, arch.hidden))
    ids: _Tensor = ("int64", (1, None))
    cache: _Tensor = (formats.cache, (1, arch.kv_heads, None, arch.head_dim))
    parts = [f"{part}.{index}" for index in range(graph.caches) for part in ("key", "value")]
    taken = {"input_ids": ids} if graph.kind == "segment" and graph.start == 0 else {"hidden": hidden}
    taken |= {"input_ids": ids} if graph.kind == "draft" else {}
    taken |= {f"past_{part}": cache for part in parts}
    lengths: dict[str, _Tensor] = {
        "seqlens_k": ("int32", (1,)),
        "total_sequence_length": ("int32", ()),
        "position": ("int64", (1,)),
    }
    answers: dict[str, _Tensor] = {"token": ids, "top": ("fp32", (1, None)), "margin": ("fp32", (1, None))}
    given: dict[str, _Tensor] = {"logits": ("fp32", (1, None, arch.vocabulary))}
    more = answers
    if graph.kind == "draft":
        given = {"hidden_out": hidden, "guess": ("int64", (1, 1)), "guess_top": ("fp32", (1, 1))}
        given |= {f"present_{part}": cache for part in parts}
        more = {}
    elif graph.kind != "head":
        given = {"hidden_out": hidden, **{f"present_{part}": cache for part in parts}}
        given |= {"gate": ("fp32", (1, None, 1))} if graph.gate else {}
        more = {"draft": ids}
    _check(session.get_inputs(), taken, lengths, where, "takes")
    _check(session.get_outputs(), given, more, where, "gives")


def _check(found: Any, needed: dict[str, _Tensor], more: dict[str, _Tensor], where: str, verb: str) -> None:
    """Raise BundleError unless all of ``needed`` are there, nothing but them and ``more``, each as it should be."""
    names = {item.name for item in found}
    if not set(needed) <= names:
        raise BundleError(f"{where} does not belong to this manifest: it {verb} no {min(set(needed) - names)}", AGAIN)
    for item in found:
        name = cell(item.name)[:100]
        wanted = needed.get(item.name) or more.get(item.name)
        if wanted is None:
            raise BundleError(f"{where} does not belong to this manifest: it {verb} {name}, which nobody knows", AGAIN)
        element, shape = wanted
        # A dimension that differs from call to call has a name, or none; never a number.
        said_shape = tuple(size if isinstance(size, int) else None for size in item.shape)
        if item.type != TYPES[element] or said_shape != shape:
            said = "×".join("n" if one is None else str(one) for one in shape) or "one number"
            raise BundleError(
                f"{where} does not belong to this manifest: {name} is {item.type} {cell(str(item.shape))[:100]}, "
                f"expected {element} {said}",
                AGAIN,
            )
