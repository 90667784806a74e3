"""How much each matrix matters: the divergence that a small error of its outputs causes at the end of the model.

Each matrix is rounded to nearest alone, and what that changes in the layer's output is measured. The changes of one
layer together, made smaller, then run through all later layers and the head. So one more sequence runs along for each
layer that was passed, and no more than one layer's weights are in memory. An error's effect grows with its square: that
gives the loss of any other rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from balcony_export.graphs.rounding import Blocks, block_of, round_blocks
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.checkpoint import Array, TensorSource
from balcony_export.quantising.layer_parts import LayerParts, Values

# Changes are made so much smaller before they run on: the divergence of several large ones would not add up.
SHRUNK = 0.5
# The blocks that every matrix is tried in.
PROBE_BITS, PROBE_SIZE = 4, 64
# A loss too small to be measured, in nats; more bits shall still be worth something.
LEAST = 1e-9
# Logits of so many positions are in memory at a time.
CHUNK = 64


@dataclass(frozen=True)
class Sensitivity:
    """One matrix's."""

    shape: tuple[int, int]
    probe_loss: float
    """KL, in nats, that rounding it to nearest in the probe's blocks causes."""
    noises: Mapping[Blocks, float]
    """What other blocks are expected to lose, as shares of the probe's squared error."""
    importance: Array
    """Mean squares of its inputs, fp32 [in]."""

    def loss(self, blocks: Blocks) -> float:
        """The KL, in nats, that rounding to nearest in ``blocks`` would cause."""
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
    embedded: Sequence[Array],
    offered: Callable[[int], Sequence[Blocks]],
    logits: Callable[[Array], Array],
    progress: Callable[[int], None],
) -> dict[str, Sensitivity]:
    """The sensitivity of every matrix of the base's layers, by name.

    ``embedded``: the embeddings of some text, fp32 [1, positions, hidden] a sequence. ``offered``: the blocks that a
    matrix may have, by its number of inputs. ``logits`` turns states behind
    the last layer, fp32 [positions, hidden], into logits. ``progress`` is called with the number of layers done.
    """
    streams = [list(embedded)]
    shares: list[dict[str, float]] = []
    known: dict[str, _Probed] = {}
    for index in range(blueprint.arch.layers):
        layer = LayerParts(blueprint, base, index)
        run = [layer.runner(part) for part in range(layer.count)]
        before: list[list[Values]] = [[layer.start(hidden) for hidden in streams[0]]]
        for part in run:
            before.append([part(values) for values in before[-1]])
        exact = [layer.end(values) for values in before[-1]]
        changes, share = [np.zeros_like(out) for out in exact], dict[str, float]()
        for place in range(layer.count):
            for one in layer.maps_of(place):
                outputs, inputs = one.weight.shape[0], one.weight.shape[1]
                weight = one.weight.rows(0, outputs)
                seen = np.concatenate([values[one.input].reshape(-1, inputs) for values in before[place]])
                importance = np.square(seen).mean(axis=0) + np.float32(1e-12)
                blocks = Blocks(PROBE_BITS, block_of(inputs, PROBE_SIZE), True, "fp32")
                probed = max(noise(weight, importance, blocks), 1e-30)
                noises = {other: noise(weight, importance, other) / probed for other in offered(inputs)}
                known[one.name] = _Probed((outputs, inputs), noises, importance)
                probe = layer.runner(place, {one.name: (blocks, round_blocks(weight, blocks))})
                values = [probe(held) for held in before[place]]
                for later in run[place + 1 :]:
                    values = [later(held) for held in values]
                moved = [layer.end(held) - out for held, out in zip(values, exact, strict=True)]
                share[one.name] = sum(float(np.square(move).sum()) for move in moved)
                changes = [total + move for total, move in zip(changes, moved, strict=True)]
        for number in range(1, len(streams)):
            values = [layer.start(hidden) for hidden in streams[number]]
            for part in run:
                values = [part(held) for held in values]
            streams[number] = [layer.end(held) for held in values]
        streams[0] = exact
        streams.append([out + np.float32(SHRUNK) * change for out, change in zip(exact, changes, strict=True)])
        shares.append(share)
        progress(index + 1)
    losses = _divergences([np.concatenate(stream, axis=1)[0] for stream in streams], logits)
    found = {}
    for share, loss in zip(shares, losses, strict=True):
        total = sum(share.values()) or 1.0
        for name, change in share.items():
            probed_one = known[name]
            expected = loss / SHRUNK**2 * change / total
            found[name] = Sensitivity(probed_one.shape, expected, probed_one.noises, probed_one.importance)
    return found


def _divergences(states: Sequence[Array], logits: Callable[[Array], Array]) -> list[float]:
    """The mean KL, in nats, from the first states to each of the others, all fp32 [positions, hidden]."""
    sums = np.zeros(len(states) - 1)
    for start in range(0, len(states[0]), CHUNK):
        log_p = _log_shares(logits(states[0][start : start + CHUNK]))
        shares = np.exp(log_p)
        for number, others in enumerate(states[1:]):
            log_q = _log_shares(logits(others[start : start + CHUNK]))
            sums[number] += float((shares * (log_p - log_q)).sum())
    return [max(float(total), LEAST) for total in sums / len(states[0])]


def _log_shares(scores: Array) -> Array:
    scores = scores - scores.max(axis=-1, keepdims=True)
    out: Array = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return out
