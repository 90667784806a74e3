"""How much each matrix matters: the divergence that a small error of its outputs causes at the end of the model.

Each matrix is rounded alone, with its errors made good, and what that changes in the layer's output is measured. (The
errors of nearest rounding would mislead: what a few outliers cost it, compensation saves.) The changes of one layer
together, made smaller, then run through all later layers and the head. So one more sequence runs along for each layer
that was passed, and no more than one layer's weights are in memory. An error's effect grows with its square: that gives
the loss of any other rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from balcony_export.graphs.rounding import Blocks, block_of
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.checkpoint import Array, TensorSource
from balcony_export.quantising.layer_parts import LayerParts, LinearMap, Values
from balcony_export.quantising.rounding import damped, round_compensated
from balcony_export.quantising.streamed_head import StreamedHead, divergences

# Changes are made so much smaller before they run on: the divergence of several large ones would not add up.
SHRUNK = 0.5
# The blocks that every matrix is tried in.
PROBE_BITS, PROBE_SIZE = 4, 64
# A loss too small to be measured, in nats; more bits shall still be worth something.
LEAST = 1e-9


@dataclass(frozen=True)
class Sensitivity:
    """One matrix's."""

    shape: tuple[int, int]
    probe_loss: float
    """KL, in nats, that rounding it in the probe's blocks causes."""
    noises: Mapping[Blocks, float]
    """What other blocks are expected to lose, as shares of the probe's squared error."""
    importance: Array
    """Mean squares of its inputs, fp32 [in]."""

    def loss(self, blocks: Blocks) -> float:
        """The KL, in nats, that rounding in ``blocks`` is expected to cause."""
        return self.probe_loss * self.noises[blocks]


@dataclass(frozen=True)
class _Probed:
    """What is known of a matrix before its loss is."""

    shape: tuple[int, int]
    noises: Mapping[Blocks, float]
    importance: Array


def noise(weight: Array, importance: Array, blocks: Blocks) -> float:
    """The squared error that rounding in ``blocks`` is expected to cause: a twelfth of each squared scale.

    ``weight``: fp32 [out, in]; ``importance``: of each input, fp32 [in].
    """
    outputs, inputs = weight.shape
    count = -(-inputs // blocks.size)
    padded = np.pad(weight, ((0, 0), (0, count * blocks.size - inputs))).reshape(outputs, count, blocks.size)
    weights = np.pad(importance, (0, count * blocks.size - inputs)).reshape(count, blocks.size).sum(axis=1)
    low, high = np.minimum(padded.min(axis=2), 0), np.maximum(padded.max(axis=2), 0)
    if blocks.symmetric:
        scales = np.maximum(-low, high) / np.float32(2 ** (blocks.bits - 1))
    else:
        scales = (high - low) / np.float32(2**blocks.bits - 1)
    return float(((scales * scales) @ weights).sum()) / 12


def measure(
    blueprint: Blueprint,
    base: TensorSource,
    embedded: Array,
    others: Sequence[Array],
    offered: Callable[[int], Sequence[Blocks]],
    head: StreamedHead,
    progress: Callable[[int], None],
) -> dict[str, Sensitivity]:
    """The sensitivity of every matrix of the base's layers, by name.

    ``embedded``: the embeddings of some text to measure on, fp32 [1, positions, hidden]; ``others``: those of more
    text, so that rounding knows its inputs. ``offered``: the blocks that a matrix may have, by its number of inputs.
    ``progress`` is called with the number of layers done.
    """
    exact = [embedded, *others]
    streams: list[Array] = []
    shares: list[dict[str, float]] = []
    known: dict[str, _Probed] = {}
    for index in range(blueprint.arch.layers):
        layer = LayerParts(blueprint, base, index)
        run = [layer.runner(part) for part in range(layer.count)]
        before: list[list[Values]] = [[layer.start(hidden) for hidden in exact]]
        for part in run:
            before.append([part(values) for values in before[-1]])
        exact = [layer.end(values) for values in before[-1]]
        changes, share = np.zeros_like(exact[0]), dict[str, float]()
        for place in range(layer.count):
            for one in layer.maps_of(place):
                probe, known[one.name] = _probe(one, before[place], offered)
                values = layer.runner(place, {one.name: probe})(before[place][0])
                for later in run[place + 1 :]:
                    values = later(values)
                moved = layer.end(values) - exact[0]
                share[one.name] = float(np.square(moved).sum())
                changes += moved
        for number, hidden in enumerate(streams):
            values = layer.start(hidden)
            for part in run:
                values = part(values)
            streams[number] = layer.end(values)
        changes *= SHRUNK
        streams.append(exact[0] + changes)
        shares.append(share)
        progress(index + 1)
    losses = [max(loss, LEAST) for loss in divergences(head, [exact[0][0], *(stream[0] for stream in streams)])]
    found = {}
    for share, loss in zip(shares, losses, strict=True):
        total = sum(share.values()) or 1.0
        for name, change in share.items():
            probed_one = known[name]
            expected = loss / SHRUNK**2 * change / total
            found[name] = Sensitivity(probed_one.shape, expected, probed_one.noises, probed_one.importance)
    return found


def _probe(
    one: LinearMap, values: Sequence[Values], offered: Callable[[int], Sequence[Blocks]]
) -> tuple[tuple[Blocks, Sequence[npt.NDArray[Any]]], _Probed]:
    """A map rounded in the probe's blocks for the inputs in ``values``, and what is known of it."""
    outputs, inputs = one.weight.shape[0], one.weight.shape[1]
    weight = one.weight.rows(0, outputs)
    moments, positions = np.zeros((inputs, inputs), np.float32), 0
    for held in values:
        seen = held[one.input].reshape(-1, inputs)
        moments += seen.T @ seen
        positions += len(seen)
    importance = np.diagonal(moments) / np.float32(positions) + np.float32(1e-12)
    blocks = Blocks(PROBE_BITS, block_of(inputs, PROBE_SIZE), True, "fp32")
    rounded = round_compensated(np.ascontiguousarray(weight.T), damped(moments), blocks, sweeps=0).packed(blocks)
    probed = max(noise(weight, importance, blocks), 1e-30)
    noises = {other: noise(weight, importance, other) / probed for other in offered(inputs)}
    return (blocks, rounded), _Probed((outputs, inputs), noises, importance)
