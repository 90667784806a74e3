"""Recorded replies: what every exit gives for each token of the full model's own replies.

They come from real decodes (``balcony-edge replay --record``), and are all that replay needs of a bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from balcony_controller.cost import StageProfile
from balcony_controller.quality import BinTable, Judge, QualityModel
from balcony_controller.shape import LadderShape
from balcony_controller.verdict import Confidence


@dataclass(frozen=True)
class Track:
    """One exit along one reply. Every list has an entry for each token of the reply.

    ``agreed``: whether the exit gives the full model's token. ``gate``: its gate's logit. ``top``, ``margin``: its
    confidence (see ``verdict.Confidence``). ``drafted``: whether the gate draft is the full model's token; None where
    the gate gives no drafts.
    """

    agreed: Sequence[bool]
    gate: Sequence[float | None]
    top: Sequence[float]
    margin: Sequence[float]
    drafted: Sequence[bool] | None = None

    def confidence(self, index: int) -> Confidence:
        """How sure the exit is of token ``index``."""
        return Confidence(self.top[index], self.margin[index], self.top[index - 1] if index else None)


@dataclass(frozen=True)
class RecordedReply:
    """A reply: the number of tokens of its ``prompt``, and the track of each exit (by depth) along the greedy reply."""

    prompt: int
    tracks: Mapping[int, Track]

    @property
    def tokens(self) -> int:
        """How many tokens the reply has."""
        return len(next(iter(self.tracks.values())).agreed)


@dataclass(frozen=True)
class Records:
    """Recorded replies of one bundle, and what a governor needs for it: shape, stage profiles, calibrated quality."""

    shape: LadderShape
    profiles: Mapping[str, StageProfile]
    tables: Mapping[int, BinTable]
    judges: Mapping[int, Judge]
    replies: Sequence[RecordedReply]

    def quality(self) -> QualityModel:
        """A new quality model that has learned nothing beyond the calibration."""
        return QualityModel(self.tables, self.shape.depths, self.judges)

    @property
    def tokens(self) -> int:
        """How many tokens all replies have together."""
        return sum(reply.tokens for reply in self.replies)
