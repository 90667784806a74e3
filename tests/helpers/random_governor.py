"""A governor that decides by lot: whatever it says, lossless verdicts must give the full model's tokens."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from balcony_controller import Confidence, Outcome, Verdict

LOSSLESS = (Verdict.HOLD, Verdict.VERIFY, Verdict.DEEPEN)


class RandomGovernor:
    """Looks at random depths and gives random ``verdicts``; the part of Governor that the decode loop calls."""

    def __init__(self, depths: Sequence[int], seed: int, verdicts: Sequence[Verdict] = LOSSLESS) -> None:
        self._depths = depths
        self._verdicts = verdicts
        self._random = random.Random(seed)
        self.expected = 0.5
        self._peeked = False
        self.outcomes: list[Outcome] = []

    @property
    def peeks(self) -> bool:
        self._peeked = self._random.random() < 0.5
        return self._peeked

    def first_split(self) -> int:
        return self._random.choice(self._depths)

    def stop_at(self, split: int, gate_logit: float | None) -> tuple[int | None, float]:
        deeper = [depth for depth in self._depths if depth > split]
        return (self._random.choice(deeper), 0.9) if self._random.random() < 0.2 else (None, 0.5)

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        assert confidence is not None or self._peeked
        assert confidence is None or confidence.top <= 0.0 <= confidence.margin
        return self._random.choice(self._verdicts)

    def verified(self, outcomes: Iterable[Outcome]) -> None:
        self.outcomes += outcomes
