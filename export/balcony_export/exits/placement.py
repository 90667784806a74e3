"""Where to hang exits: ``--splits auto:3`` spaces the costs of a token evenly.

A token that leaves after k of N layers reads k layers, the exit and the head. A controller mixes neighbouring depths,
so between two exits quality is at least the straight line; equal steps of cost leave the shortest lines to bridge.
The steps run from an exit after no layer at all up to the full model, both left out:

    cost(k) = k · layer + exit + head        cost of full depth = N · layer + head

The head is in every one of them, so it does not move the splits; the exit does, towards the front. Costs are counts of
weights, which is what a token waits for on an edge device.
"""

from __future__ import annotations

import math

from balcony_edge.errors import ModelError
from balcony_export.exits.widths import Width, exit_shapes
from balcony_export.model.blueprint import Blueprint

PREFIX = "auto"
DEFAULT_COUNT = 3


def automatic(text: str) -> int | None:
    """How many splits ``auto:N`` asks for (``auto``: three); None for any other text. Raises ModelError."""
    word, _, count = text.partition(":")
    if word != PREFIX:
        return None
    if not count:
        return DEFAULT_COUNT
    if not count.isdecimal() or not int(count):
        raise ModelError(f"cannot read the splits {text!r}", "write how many you want, as in --splits auto:3")
    return int(count)


def place(count: int, blueprint: Blueprint, width: Width = "layer") -> list[int]:
    """``count`` splits, each cheaper than full depth. Raises ModelError where there are not so many."""
    layers = blueprint.arch.layers
    exit_layers = exit_elements(blueprint, width) / exit_elements(blueprint, "layer")
    step = (layers - exit_layers) / (count + 1)
    # Half up: rounding to even would put 1.5 and 2.5 together.
    splits = [math.floor(step * index + 0.5) for index in range(1, count + 1)]
    if splits[0] < 1 or len(set(splits)) < count or splits[-1] + exit_layers >= layers:
        raise ModelError(
            f"{count} exits of width {width} have no room in {layers} layers: each must be cheaper than full depth",
            "ask for fewer, or name the splits yourself, as in --splits 3,6,9",
        )
    return splits


def exit_elements(blueprint: Blueprint, width: Width) -> int:
    """Weights of an exit without its norm and its gate; of width "layer" those of a base layer."""
    return sum(math.prod(shape) for shape in exit_shapes(blueprint, width).values())
