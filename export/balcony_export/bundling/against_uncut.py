"""What can be checked of a bundle without its model: the cut model against the same model uncut.

Both are made from the same weights. So this finds what cutting, caches and stages do wrong, and weights that are not
finite. It cannot find what was read wrong of the model: ``verify`` does, with torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from balcony_edge.bundle.folder import Bundle
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_export.bundling.uncut import Uncut
from balcony_export.verification.measures import LIMIT, Gap, Mean, Values, divergence, is_exact, log_probabilities
from balcony_export.verification.report import figure

# Weights of few bits are multiplied in int8, and there a last bit of an input can move a whole step.
MOST_KL_NATS = 0.05


@dataclass(frozen=True)
class Agreement:
    """How far full depth lies from the uncut graph."""

    positions: int
    gap: Gap
    kl_nats: float
    greedy: int
    """How many of ``decoded`` greedy tokens are the uncut graph's, both given its own tokens before."""
    decoded: int
    failure: str | None
    """Why the bundle cannot be right, in words; None if nothing speaks against it."""

    def line(self) -> str:
        """The figures in one line."""
        return (
            f"full depth against the uncut graph on {self.positions} positions: logits max |Δ| "
            f"{figure(self.gap.absolute)}, KL {figure(self.kl_nats)} nats/token, "
            f"greedy {self.greedy} of {self.decoded}"
        )


def compare_with_uncut(bundle: Bundle, ids: Sequence[int], decode: int) -> Agreement:
    """Run a bundle for the CPU on ``ids`` and ``decode`` more tokens, which the uncut graph chooses.

    The bundle's digests were checked when it was opened. Raises BundleError for a graph that cannot be loaded.
    """
    decode = min(decode, bundle.manifest.architecture.context - len(ids))
    sequence, expected = _decode_uncut(bundle, ids, decode)
    ladder = Ladder(bundle, Runtime.start("cpu"), len(sequence))
    ladder.append(sequence[: len(ids)])
    found = [ladder.logits(ladder.full)]
    for token in sequence[len(ids) :]:
        ladder.append([token])
        found.append(ladder.logits(ladder.full, ladder.length - 1))
    logits = np.concatenate(found)
    gap, kl = Gap(), Mean()
    gap.add(logits, expected)
    kl.add(divergence(log_probabilities(expected), log_probabilities(logits)))
    places = slice(len(ids) - 1, len(sequence) - 1)
    equal = int((logits[places].argmax(axis=-1) == sequence[len(ids) :]).sum())
    failure = _broken_exit(ladder) or _too_far(bundle, gap, kl.value)
    return Agreement(len(sequence), gap, kl.value, equal, decode, failure)


def _decode_uncut(bundle: Bundle, ids: Sequence[int], count: int) -> tuple[list[int], Values]:
    """``ids`` with ``count`` greedy tokens behind them, and the logits of all positions [positions, V]."""
    uncut = Uncut(bundle, len(ids) + count)
    sequence, logits = list(ids), [uncut.append(ids)]
    for _ in range(count):
        sequence.append(int(logits[-1][-1].argmax()))
        logits.append(uncut.append(sequence[-1:]))
    return sequence, np.concatenate(logits)


def _too_far(bundle: Bundle, gap: Gap, kl_nats: float) -> str | None:
    exact = is_exact(bundle.manifest.formats)
    # Written so that NaN is too far.
    near = gap.scaled is not None and gap.scaled <= LIMIT if exact else kl_nats <= MOST_KL_NATS
    if near:
        return None
    return f"its logits differ by {figure(gap.absolute)}, KL {figure(kl_nats)} nats, from its own uncut graph's"


def _broken_exit(ladder: Ladder) -> str | None:
    for split in ladder.exits:
        gate = ladder.gate(split) if ladder.advance(split, ladder.length).gates is not None else 0.0
        if not np.isfinite(ladder.logits(split)).all() or gate is None or not np.isfinite(gate):
            return f"the exit at {split} gives numbers that are not finite"
    return None
