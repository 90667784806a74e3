"""Records of real decodes: what every exit would have said of each token of the full model's replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from balcony_controller.cost import StageProfile
from balcony_controller.quality import BinTable, Judge, QualityModel
from balcony_controller.shape import LadderShape
from balcony_controller.verdict import Confidence


@dataclass(frozen=True)
class Track:
    """One exit along one reply, an entry for each token: whether it gives the full model's token, its gate's logit,
    and the log-probability and margin of its own likeliest token; and whether its gate's draft is the full model's."""

    agreed: Sequence[bool]
    gate: Sequence[float | None]
    top: Sequence[float]
    margin: Sequence[float]
    drafted: Sequence[bool] | None = None

    def confidence(self, index: int) -> Confidence:
        """The exit's confidence in token ``index``."""
        return Confidence(self.top[index], self.margin[index], self.top[index - 1] if index else None)


@dataclass(frozen=True)
class RecordedReply:
    """A prompt of so many tokens, and the tracks of all exits along the full model's greedy reply."""

    prompt: int
    tracks: Mapping[int, Track]

    @property
    def tokens(self) -> int:
        """How many tokens the reply has."""
        return len(next(iter(self.tracks.values())).agreed)


@dataclass(frozen=True)
class Records:
    """Replies of one bundle, and all that a governor of it needs: shape, stage costs, calibrated quality."""

    shape: LadderShape
    profiles: Mapping[str, StageProfile]
    tables: Mapping[int, BinTable]
    judges: Mapping[int, Judge]
    replies: Sequence[RecordedReply]

    def quality(self) -> QualityModel:
        """A fresh quality model, as calibrated."""
        return QualityModel(self.tables, self.shape.depths, self.judges)

    @property
    def tokens(self) -> int:
        """Tokens of all replies."""
        return sum(reply.tokens for reply in self.replies)
