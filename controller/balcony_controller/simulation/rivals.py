"""Other ways to spend depth that learn while they decode: what the governor is compared with beside fixed ways.

All are deciders. ``OnlineThreshold`` keeps a budget as the governor does; ``LearnedThreshold`` keeps an agreement;
``BestRound`` is lossless.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping

from balcony_controller.fixed import FixedDepth
from balcony_controller.shape import HEAD
from balcony_controller.simulation.records import Records
from balcony_controller.verdict import Confidence, Outcome, Verdict

# Probabilities are kept away from 0 and 1 by so much.
LEAST = 1e-4


class OnlineThreshold(FixedDepth):
    """Early exit by a threshold on the exit's probability that is tuned on line to keep a budget of time.

    The exit's token is emitted where it is sure enough; otherwise it is verified by a deep pass. The threshold, in
    log-odds, follows the account of the budget: it falls by ``gain`` for each token's worth of debt, and its resting
    place by a tenth of that for each token's worth that a step overspends (a PI controller).
    """

    def __init__(self, depth: int, budget_ms: float, gain: float) -> None:
        super().__init__(depth)
        self._budget_ms, self._gain = budget_ms, gain
        self._rest = self._debt = 0.0

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """Compare the log-odds of the likeliest token with the threshold."""
        assert confidence is not None
        chance = min(1.0 - LEAST, max(LEAST, math.exp(confidence.top)))
        is_sure = math.log(chance / (1.0 - chance)) >= self._rest - self._gain * self._debt
        return Verdict.EMIT if is_sure else Verdict.VERIFY

    def end_step(self, tokens: int, elapsed_ms: float, charge: bool = True) -> None:
        """Charge the step to the account."""
        if charge:
            over = elapsed_ms / self._budget_ms - tokens
            self._debt = min(50.0, max(-30.0, self._debt + over))
            self._rest -= 0.1 * self._gain * over


class LearnedThreshold(FixedDepth):
    """Early exit by the least probability at which tokens were right often enough, as FREE estimates it on line.

    Bae et al., EMNLP 2023, fit two Beta distributions to what deep passes find out; here the same is counted in bins.
    ``wanted``: the share of emitted tokens (0..1) that should be the full model's.
    """

    BINS = 20
    # Before anything was seen, a bin's tokens are taken to be right as often as the exit says, for so many tokens.
    PRIOR = 8.0

    def __init__(self, depth: int, wanted: float) -> None:
        super().__init__(depth)
        self._wanted = wanted
        self._right = [self.PRIOR * (place + 0.5) / self.BINS for place in range(self.BINS)]
        self._seen = [self.PRIOR] * self.BINS
        self._waiting: deque[int] = deque()

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """Emit where tokens of this probability are right often enough; verify the others."""
        assert confidence is not None
        place = min(self.BINS - 1, int(math.exp(confidence.top) * self.BINS))
        self._waiting.append(place)
        return Verdict.EMIT if self._right[place] >= self._wanted * self._seen[place] else Verdict.VERIFY

    def verified(self, outcomes: Iterable[Outcome]) -> None:
        """Count what a deep pass has found of the tokens judged since the one before."""
        for outcome in outcomes:
            place = self._waiting.popleft()
            self._right[place] += outcome.agreed
            self._seen[place] += 1.0
        self._waiting.clear()


class BestRound(FixedDepth):
    """Lossless rounds of the exit and length that promise the most tokens for their time, as DEL chooses them.

    Zarch et al. 2025, "DEL: Context-Aware Dynamic Exit Layer". It knows how often each exit was right lately, at
    every token: that is in the records. (DEL runs the head for all exits after each deep pass to find that out.)
    """

    MOST_DRAFTS = 12
    # How fast what was seen of an exit is followed.
    FOLLOW = 0.05

    def __init__(self, records: Records) -> None:
        super().__init__(records.shape.full)
        self._records = records
        self._chances = dict.fromkeys(records.shape.depths[:-1], 0.5)
        self._reply, self._at = -1, 0
        shape, profiles = records.shape, records.profiles
        self._draft_ms = {
            split: sum(profiles[name].ms(1) for name in [*shape.stages(split), HEAD]) for split in self._chances
        }
        self._pass_ms = {
            (split, length): sum(profiles[name].ms(1 + length) for name in [*shape.segments(split, shape.full), HEAD])
            for split in self._chances
            for length in range(1, self.MOST_DRAFTS + 1)
        }
        self._plain_ms = sum(profiles[name].ms(1) for name in [*shape.stages(shape.full), HEAD])
        self._length = 0

    def begin(self, pending: Mapping[str, int], remaining: int, repeatable: bool = False, greedy: bool = True) -> None:
        """The next recorded reply."""
        self._reply, self._at = self._reply + 1, 0

    def first_split(self) -> int:
        """The exit of the best round; at its first token the round is chosen."""
        if not self._length:
            best_ms, self.depth = self._plain_ms, self._records.shape.full
            for (split, length), pass_ms in self._pass_ms.items():
                chance = self._chances[split]
                tokens = sum(chance**place for place in range(length + 1))
                # The deep pass also runs the segments below the exit for the position after the drafts.
                below = self._records.shape.segments(0, split)
                last_ms = sum(self._records.profiles[name].ms(1) for name in below)
                token_ms = (length * self._draft_ms[split] + last_ms + pass_ms) / tokens
                if token_ms < best_ms:
                    best_ms, self.depth, self._length = token_ms, split, length
        return self.depth

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """Hold until the round is as long as it was chosen."""
        return Verdict.HOLD if held + 1 < self._length else Verdict.VERIFY

    def end_step(self, tokens: int, elapsed_ms: float, charge: bool = True) -> None:
        """Learn from the tokens that were emitted, and begin another round."""
        self._length = 0
        reply = self._records.replies[self._reply % len(self._records.replies)]
        for split, chance in self._chances.items():
            for agreed in reply.tracks[split].agreed[self._at : self._at + tokens]:
                chance += self.FOLLOW * (agreed - chance)
            self._chances[split] = chance
        self._at += tokens
