"""Translates a ladder and its bundle into the controller's own types: their shape and their quality."""

from __future__ import annotations

import math

from balcony_controller import Judge, LadderShape, QualityModel
from balcony_controller.quality import BinTable
from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import JudgeRecord
from balcony_edge.engine.ladder import Ladder


def ladder_shape(ladder: Ladder) -> LadderShape:
    """Depths and stages of a ladder, as the controller knows them."""
    return LadderShape(
        depths=ladder.depths,
        trunk=tuple((stage.name, stage.graph.stop) for stage in ladder.trunk),
        exits={depth: stage.name for depth, stage in ladder.exits.items()},
        drafts=ladder.drafter is not None,
    )


def quality_model(bundle: Bundle) -> QualityModel:
    """What the bundle says of its exits' agreement with the full model: by gate, and by judge where it has one."""
    found = bundle.manifest.quality
    bins = {split: row.bins for split, row in found.items()}
    tables = {
        split: BinTable(one.edges, one.share, one.agreement, one.drafted, one.judged, one.following)
        for split, one in bins.items()
    }
    judges = {split: _judge(row.judge) for split, row in found.items() if row.judge is not None}
    return QualityModel(tables, bundle.depths, judges)


def _judge(record: JudgeRecord) -> Judge:
    """The controller's judge. Its edges are scores (logits), while the manifest's are probabilities."""
    inside = [min(1.0 - 1e-12, max(1e-12, edge)) for edge in record.edges]
    edges = [math.log(edge / (1.0 - edge)) for edge in inside]
    weights = {name: float(getattr(record, name)) for name in Judge.FEATURES}
    return Judge(weights, record.offset, edges, record.share, record.agreement, record.previous_mean)
