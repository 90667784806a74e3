"""The final norm and the head, a few rows at a time: a large vocabulary in fp32 would outweigh all layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from balcony_export.graphs.layers import EMBEDDING
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.checkpoint import Array, TensorSource

# Rows of the head that are in memory at a time.
ROWS = 8192


class StreamedHead:
    """The head of ``base``, read anew by every call of ``blocks``."""

    def __init__(self, blueprint: Blueprint, base: TensorSource) -> None:
        self._blueprint, self._base = blueprint, base
        self._gain = base.tensor("model.norm.weight") + np.float32(blueprint.norm_offset)

    def normed(self, states: Array) -> Array:
        """What the head reads, of states behind the last layer, fp32 [positions, hidden]."""
        mean = np.square(states).mean(axis=-1, keepdims=True)
        out: Array = states / np.sqrt(mean + self._blueprint.norm_epsilon) * self._gain
        return out

    def blocks(self) -> Iterator[Callable[[Array], Array]]:
        """For one block of rows after the other, what turns normed states into these rows' logits [positions, rows]."""
        name = f"{EMBEDDING if self._blueprint.arch.tied_head else 'lm_head'}.weight"
        divisor, cap = np.float32(self._blueprint.logit_divisor), np.float32(self._blueprint.logit_softcap)
        vocabulary = self._blueprint.arch.vocabulary
        for first in range(0, vocabulary, ROWS):
            weight = self._base.rows(name, first, min(vocabulary, first + ROWS))

            def logits(normed: Array, weight: Array = weight) -> Array:
                out: Array = normed @ weight.T / divisor
                return cap * np.tanh(out / cap) if cap else out

            yield logits


def divergences(head: StreamedHead, states: Sequence[Array]) -> list[float]:
    """The mean KL, in nats, from the first states to each of the others, all fp32 [positions, hidden].

    KL = Σ e^p (p - q) / Σ e^p - log Σ e^p + log Σ e^q, summed block by block below a largest logit that may still grow.
    """
    first, *others = [head.normed(one) for one in states]
    positions, count = len(first), len(others)
    top, total, weighted = np.full(positions, -np.inf), np.zeros(positions), np.zeros((count, positions))
    tops, totals = np.full((count, positions), -np.inf), np.zeros((count, positions))
    for logits in head.blocks():
        here = logits(first)
        higher = np.maximum(top, here.max(axis=1))
        shares = np.exp(here - higher[:, None])
        shrunk = np.exp(top - higher)
        top, total, weighted = higher, total * shrunk + shares.sum(axis=1, dtype=np.float64), weighted * shrunk
        for number, normed in enumerate(others):
            there = logits(normed)
            weighted[number] += (shares * (here - there)).sum(axis=1, dtype=np.float64)
            higher = np.maximum(tops[number], there.max(axis=1))
            totals[number] *= np.exp(tops[number] - higher)
            totals[number] += np.exp(there - higher[:, None]).sum(axis=1, dtype=np.float64)
            tops[number] = higher
    found = weighted / total - (top + np.log(total)) + (tops + np.log(totals))
    return [float(mean) for mean in found.mean(axis=1)]
