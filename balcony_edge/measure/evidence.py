"""What is known of exits' tokens after the head has run, what a judge makes of it, and the tables of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from balcony_controller.quality import Judge
from balcony_edge.measure.chances import Flags, Floats, bin_indices, bin_shares, bin_table, sigmoid

FEATURES = Judge.FEATURES


class Evidence(NamedTuple):
    """What a judge knows of one exit's tokens, each [positions].

    ``gate``: the gate's logit. ``top`` and ``margin``: as in ``verdict.Confidence``, in nats. ``begins``: whether a
    position is the first of a text, or of what is measured of it.
    """

    gate: Floats
    top: Floats
    margin: Floats
    begins: Flags

    def features(self, previous_mean: float | None = None) -> Floats:
        """[positions, 4] in the order of FEATURES.

        The first position of a text has no previous one; it gets ``previous_mean``, or the mean of ``top``.
        """
        previous = np.roll(self.top, 1)
        previous[self.begins] = self.top.mean() if previous_mean is None else previous_mean
        return np.stack([self.gate, self.top, self.margin, previous], axis=-1)


def chances(judge: dict[str, Any], seen: Evidence) -> Floats:
    """The probabilities [positions] that a fitted judge gives on other text."""
    weights = np.array([judge[name] for name in FEATURES])
    return sigmoid(seen.features(judge["previous_mean"]) @ weights + judge["offset"])


def gate_tables(
    gate_chances: Mapping[int, Floats],
    agrees: Mapping[int, Flags],
    drafted: Mapping[int, Flags],
    judged: Mapping[int, tuple[Floats, list[float]]],
) -> dict[int, dict[str, Any]]:
    """For each split a table by bin of its gate's probability, as the manifest holds it (GateBins).

    Each bin has the agreement of this exit and of the deeper ones, and that of the gate draft where ``drafted`` has the
    split. It also has the shares of its positions by bin of each deeper gate, and by bin of the judge where ``judged``
    has the split: (the judge's probabilities, the edges of its bins).
    """
    tables = {
        split: bin_table(
            found, {depth: flags for depth, flags in agrees.items() if depth >= split}, drafted=drafted.get(split)
        )
        for split, found in gate_chances.items()
    }
    gate_bins = {split: bin_indices(found, tables[split]["edges"]) for split, found in gate_chances.items()}
    for split, table in tables.items():
        here, bins = gate_bins[split], len(table["share"])
        if split in judged:
            found, edges = judged[split]
            table["judged"] = bin_shares(here, bins, bin_indices(found, edges), len(edges) + 1)
        table["following"] = {
            str(depth): bin_shares(here, bins, gate_bins[depth], len(tables[depth]["share"]))
            for depth in tables
            if depth > split
        }
    return tables
