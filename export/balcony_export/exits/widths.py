"""How much of a decoder layer an exit has: all of it, its MLP alone, or nothing but the norm behind it.

layer   hidden ─ attention ─ MLP ─ norm     the paper's Balcony; its own KV cache
mlp     hidden ─ MLP ─ norm                 no cache: sees each position alone
norm    hidden ─ norm                       a trained logit lens
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from balcony_edge.errors import ModelError
from balcony_export.model.blueprint import Blueprint, Shape

Width = Literal["layer", "mlp", "norm"]
WIDTHS: tuple[Width, ...] = get_args(Width)


class Names(Protocol):
    """Anything that knows which tensors it holds."""

    def __contains__(self, name: str, /) -> bool: ...


def check_width(width: str) -> Width:
    """The width by name. Raises ModelError for one that there is not."""
    for known in WIDTHS:
        if width == known:
            return known
    raise ModelError(f"there are no exits of width {width!r}", f"choose one of {', '.join(WIDTHS)}")


def exit_shapes(blueprint: Blueprint, width: Width) -> dict[str, Shape]:
    """Name (as in a Hugging Face layer) and shape of every tensor of an exit's layer; the norm behind it is apart."""
    shapes = blueprint.layer_shapes()
    norms = blueprint.norms
    kept = {
        "layer": tuple(shapes),
        "mlp": ("mlp.", *(f"{name}." for name in (norms.before_mlp, norms.after_mlp) if name is not None)),
        "norm": (),
    }[width]
    return {name: shape for name, shape in shapes.items() if name.startswith(kept)}


def width_of(tensors: Names, prefix: str) -> Width:
    """The width of the exit whose layer's tensors begin with ``prefix``, by what is there."""
    if f"{prefix}self_attn.o_proj.weight" in tensors:
        return "layer"
    return "mlp" if f"{prefix}mlp.down_proj.weight" in tensors else "norm"
