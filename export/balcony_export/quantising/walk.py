"""The calibration's walk through the base: two streams side by side, one in fp32 and one through what was rounded.

Each matrix is rounded for the inputs that it will really meet, which come from the matrices rounded before it. And its
aim is not its own fp32 output but that of the fp32 stream: so it makes good, as far as it can, what the earlier ones
have lost. Only one layer's weights are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_export.graphs.rounding import Blocks
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.checkpoint import Array, TensorSource
from balcony_export.quantising.layer_parts import LayerParts, LinearMap, Values
from balcony_export.quantising.rounding import DAMPING, damped, round_compensated

# How much of the streams' difference a matrix is to make good. All of it would fit the text's noise.
REPAIR = 0.5
# Called with a matrix's name, its blocks and its tensors.
Keep = Callable[[str, Blocks, Sequence[npt.NDArray[Any]]], None]
Parts = dict[str, tuple[Blocks, Sequence[npt.NDArray[Any]]]]


def round_layers(
    blueprint: Blueprint,
    base: TensorSource,
    embedded: Sequence[Array],
    forms: Mapping[str, Blocks],
    keep: Keep,
    progress: Callable[[int], None],
) -> None:
    """Round all matrices of the base's layers.

    ``embedded``: the embeddings of the calibration text, fp32 [1, positions, hidden] a sequence. ``forms``: how the
    matrix of a name is held; ``keep`` gets it rounded; ``progress`` the number of layers that are done.
    """
    exact, rounded = list(embedded), list(embedded)
    for index in range(blueprint.arch.layers):
        layer = LayerParts(blueprint, base, index)
        exact_values = [layer.start(hidden) for hidden in exact]
        rounded_values = [layer.start(hidden) for hidden in rounded]
        for part in range(layer.count):
            found: Parts = {}
            if maps := layer.maps_of(part):
                for one, blocks, tensors in _round(maps, exact_values, rounded_values, forms):
                    found[one.name] = (blocks, tensors)
                    keep(one.name, blocks, tensors)
            run = layer.runner(part)
            exact_values = [run(values) for values in exact_values]
            run = layer.runner(part, found)
            rounded_values = [run(values) for values in rounded_values]
        exact = [layer.end(values) for values in exact_values]
        rounded = [layer.end(values) for values in rounded_values]
        progress(index + 1)


def _round(
    maps: Sequence[LinearMap],
    exact: Sequence[Values],
    rounded: Sequence[Values],
    forms: Mapping[str, Blocks],
) -> Any:
    """Round the maps of one part, which share their input. Gives (map, blocks, tensors) of each."""
    name = maps[0].input
    columns = maps[0].weight.shape[1]
    moments = np.zeros((columns, columns), np.float32)
    mixed = np.zeros((columns, columns), np.float32)
    for left, right in zip(exact, rounded, strict=True):
        x, seen = left[name].reshape(-1, columns), right[name].reshape(-1, columns)
        moments += seen.T @ seen
        # What the inputs have lost, as the rounded ones see it.
        mixed += seen.T @ (x - seen)
    moments = damped(moments)
    # As much damping again: the repair must not follow directions that the text hardly has.
    ridge = moments + np.diag(np.full(columns, DAMPING * float(np.diagonal(moments).mean()), np.float32))
    for one in maps:
        rows = one.weight.shape[0]
        weight = np.ascontiguousarray(one.weight.rows(0, rows).T)
        missing = mixed @ weight
        if one.residual is not None:
            for left, right in zip(exact, rounded, strict=True):
                seen = right[name].reshape(-1, columns)
                missing += seen.T @ (left[one.residual] - right[one.residual]).reshape(-1, rows)
        repair: Array = np.linalg.solve(ridge, missing).astype(np.float32, copy=False)
        aim = weight + np.float32(REPAIR) * repair
        blocks = forms[one.name]
        yield one, blocks, round_compensated(aim, moments, blocks).packed(blocks)
