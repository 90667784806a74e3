"""Where to put exits: ``--splits auto:3`` spaces them so that the costs of a token rise in equal steps.

Between two exits a controller reaches any cost by mixing them, at a quality on the straight line between the two. Equal
steps of cost keep the longest of these lines short. A cost counts the weights that a token reads, because an edge
device spends most of a token's time on reading them. Of N layers:

    cost of an exit after k layers = k · layer + exit + head
    cost of full depth             = N · layer + head

The steps run from k = 0 to full depth, and neither end is an exit. All costs contain the head, so it has no influence
on the splits. The exit's own weights move them towards the front.
"""

from __future__ import annotations

import math

from balcony_edge.errors import ModelError
from balcony_export.exits.widths import Width, exit_shapes
from balcony_export.model.blueprint import Blueprint

PREFIX = "auto"
DEFAULT_COUNT = 3


def automatic(text: str) -> int | None:
    """How many splits ``auto:N`` asks for; ``auto`` alone means three. None for text that does not begin with auto.

    Raises ModelError for an N that is no number above 0.
    """
    word, _, count = text.partition(":")
    if word != PREFIX:
        return None
    if not count:
        return DEFAULT_COUNT
    if not count.isdecimal() or not int(count):
        raise ModelError(f"cannot read the splits {text!r}", "write how many you want, as in --splits auto:3")
    return int(count)


def place(count: int, blueprint: Blueprint, width: Width = "layer", exit_layers: int = 1) -> list[int]:
    """The splits of ``count`` exits, ascending. Raises ModelError if so many do not fit: each must save something."""
    layers = blueprint.arch.layers
    own = exit_layers * exit_elements(blueprint, width) / exit_elements(blueprint, "layer")
    step = (layers - own) / (count + 1)
    # Rounds half up. Python's round goes to the even number, which would make 1.5 and 2.5 the same split.
    splits = [math.floor(step * index + 0.5) for index in range(1, count + 1)]
    if splits[0] < 1 or len(set(splits)) < count or splits[-1] + own >= layers:
        raise ModelError(
            f"{count} exits of width {width} have no room in {layers} layers: each must be cheaper than full depth",
            "ask for fewer, or name the splits yourself, as in --splits 3,6,9",
        )
    return splits


def exit_elements(blueprint: Blueprint, width: Width) -> int:
    """How many weights an exit's layer has, without the norm and the gate. Width "layer": those of a base layer."""
    return sum(math.prod(shape) for shape in exit_shapes(blueprint, width).values())
