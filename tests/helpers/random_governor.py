"""A governor that decides by lot: whatever it says, lossless verdicts must give the full model's tokens."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

from balcony_controller import Confidence, FixedDepth, Outcome, Verdict
from balcony_controller.verdict import Found

LOSSLESS = (Verdict.HOLD, Verdict.VERIFY, Verdict.DEEPEN)


class RandomGovernor(FixedDepth):
    """Looks at random depths and gives random ``verdicts``; this share of the steps takes drafts from the text, and as
    many of the others those of a draft stage, if there is one."""

    def __init__(
        self, depths: Sequence[int], seed: int, verdicts: Sequence[Verdict] = LOSSLESS, lookups: float = 0.4
    ) -> None:
        super().__init__(depths[-1])
        self._depths = depths
        self._verdicts = verdicts
        self._lookups = lookups
        self._random = random.Random(seed)
        self.expected = 0.5
        self._asked_for_draft = False
        self.outcomes: list[Outcome] = []
        self.looked_up_tokens = self.guessed_tokens = 0

    @property
    def takes_gate_draft(self) -> bool:  # type: ignore[override]
        self._asked_for_draft = self._random.random() < 0.5
        return self._asked_for_draft

    def lookup(self, found: Found) -> int:
        if not self._lookups or self._random.random() > self._lookups:
            return 0
        return self._random.randint(0, found.drafts)

    def looked_up(self, found: Found, checked: int, accepted: int) -> None:
        assert 0 <= accepted <= checked <= accepted + 1
        assert checked <= found.drafts
        self.looked_up_tokens += accepted

    def wants_guess(self, held: int) -> bool:
        return self._random.random() < (0.7 if held else self._lookups)

    def holds_guess(self, top: float) -> bool:
        assert top <= 0.0
        # Minus infinity says that it may not be held.
        return top > -math.inf and self._random.random() < 0.9

    def guessed(self, checked: int, accepted: int) -> None:
        assert 0 <= accepted <= checked <= accepted + 1
        self.guessed_tokens += accepted

    def first_split(self) -> int:
        return self._random.choice(self._depths)

    def next_depth(self, split: int, gate_logit: float | None) -> int | None:
        deeper = [depth for depth in self._depths if depth > split]
        return self._random.choice(deeper) if self._random.random() < 0.2 else None

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        assert confidence is not None or self._asked_for_draft
        assert confidence is None or confidence.top <= 0.0 <= confidence.margin
        return self._random.choice(self._verdicts)

    def verified(self, outcomes: Iterable[Outcome]) -> None:
        self.outcomes += outcomes
