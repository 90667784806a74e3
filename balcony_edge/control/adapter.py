"""A ladder and what was measured of its exits, as the controller sees them."""

from __future__ import annotations

import math

from balcony_controller import Judge, LadderShape, QualityModel
from balcony_controller.quality import BinTable
from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import JudgeRecord
from balcony_edge.engine.ladder import Ladder


def ladder_shape(ladder: Ladder) -> LadderShape:
    """The ladder as the controller sees it."""
    return LadderShape(
        depths=ladder.depths,
        trunk=tuple((stage.name, stage.graph.stop) for stage in ladder.trunk),
        exits={depth: stage.name for depth, stage in ladder.exits.items()},
    )


def quality_model(bundle: Bundle) -> QualityModel:
    """The measured agreement of a bundle's exits: by gate, and by judge where the bundle has them."""
    found = bundle.manifest.quality
    bins = {split: row.bins for split, row in found.items()}
    tables = {
        split: BinTable(one.edges, one.share, one.agreement, one.drafted, one.judged, one.following)
        for split, one in bins.items()
    }
    judges = {split: _judge(row.judge) for split, row in found.items() if row.judge is not None}
    return QualityModel(tables, bundle.depths, judges)


def _judge(record: JudgeRecord) -> Judge:
    """The manifest's edges are probabilities, the controller's are of the score."""
    kept = [min(1.0 - 1e-12, max(1e-12, edge)) for edge in record.edges]
    edges = [math.log(edge / (1.0 - edge)) for edge in kept]
    weights = {name: float(getattr(record, name)) for name in Judge.FEATURES}
    return Judge(weights, record.offset, edges, record.share, record.agreement, record.previous_mean)
