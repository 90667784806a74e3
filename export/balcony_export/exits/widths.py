"""The widths of an exit: how much of a decoder layer it has in front of its norm.

layer   hidden ─ attention ─ MLP ─ norm     the Balcony of the paper (arXiv 2503.05005); has a KV cache of its own.
                                            There may be several such layers, for bases that are deep and thin
mlp     hidden ─ MLP ─ norm                 no KV cache: each position is computed from itself alone
norm    hidden ─ norm                       a logit lens whose norm is trained
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from balcony_edge.bundle.manifest import MOST_EXIT_LAYERS
from balcony_edge.errors import ModelError
from balcony_export.model.blueprint import Blueprint, Shape

Width = Literal["layer", "mlp", "norm"]
WIDTHS: tuple[Width, ...] = get_args(Width)


class Names(Protocol):
    """Anything that can say whether it holds a tensor of some name."""

    def __contains__(self, name: str, /) -> bool: ...


def check_width(width: str) -> Width:
    """``width`` as a Width. Raises ModelError if there is no such width."""
    for known in WIDTHS:
        if width == known:
            return known
    raise ModelError(f"there are no exits of width {width!r}", f"choose one of {', '.join(WIDTHS)}")


def exit_shapes(blueprint: Blueprint, width: Width) -> dict[str, Shape]:
    """Name (as in a Hugging Face layer) and shape of every tensor of an exit's layer, without the exit's norm."""
    shapes = blueprint.layer_shapes()
    norms = blueprint.norms
    prefixes = {
        "layer": tuple(shapes),
        "mlp": ("mlp.", *(f"{name}." for name in (norms.before_mlp, norms.after_mlp) if name is not None)),
        "norm": (),
    }[width]
    return {name: shape for name, shape in shapes.items() if name.startswith(prefixes)}


def layer_names(count: int) -> list[str]:
    """What the layers of an exit are called: ``layer``, ``layer_2``, …"""
    return [f"layer_{number}" if number > 1 else "layer" for number in range(1, count + 1)]


def layers_of(tensors: Names, prefix: str) -> list[str]:
    """The names of the layers of the exit whose tensors begin with ``prefix``, told by which tensors there are."""
    further = layer_names(MOST_EXIT_LAYERS)[1:]
    return ["layer", *(name for name in further if f"{prefix}{name}.self_attn.o_proj.weight" in tensors)]


def check_layers(count: int, width: Width) -> int:
    """``count``. Raises ModelError unless an exit of this width can have so many layers."""
    if not 1 <= count <= MOST_EXIT_LAYERS:
        raise ModelError(f"exits cannot have {count} layers", f"choose 1 to {MOST_EXIT_LAYERS}")
    if count > 1 and width != "layer":
        raise ModelError(f"exits of width {width} have no {count} layers", "use --width layer, or --exit-layers 1")
    return count


def width_of(tensors: Names, prefix: str) -> Width:
    """The width of the exit whose layer's tensors begin with ``prefix``, told by which tensors there are."""
    if f"{prefix}self_attn.o_proj.weight" in tensors:
        return "layer"
    return "mlp" if f"{prefix}mlp.down_proj.weight" in tensors else "norm"
