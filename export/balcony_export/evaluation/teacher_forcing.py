"""Teacher forcing in the decode loop: instead of sampling tokens, take those of a given text, and note their scores.

So a text can be scored the way the session decodes. The controller picks the depth of every token, with drafts and deep
passes, and each token gets its probability from the depth that it was emitted at.
"""

from __future__ import annotations

from collections.abc import Sequence

from balcony_edge.engine.sampling import Logits, Sample, Sampler
from balcony_export.verification.measures import log_probabilities


class ForcedSampler(Sampler):
    """A sampler that always chooses the next token of ``continuation``, which follows ``start`` other tokens.

    ``log_probabilities``: of each token of the continuation, in nats. When a deep pass verifies a draft, the value of
    the deep pass replaces the draft's. ``likeliest``: whether each token had the highest logit.
    """

    def __init__(self, continuation: Sequence[int], start: int) -> None:
        super().__init__()
        self._continuation = list(continuation)
        self._start = start
        self.log_probabilities = [float("nan")] * len(self._continuation)
        self.likeliest = [False] * len(self._continuation)

    @property
    def plain_greedy(self) -> bool:
        """False: the chosen token is often not the likeliest one, so an exit's confidence says nothing about it."""
        return False

    def choose(self, logits: Logits, tokens: Sequence[int]) -> Sample:
        """The next token of the continuation after ``tokens``, whatever the logits [V] are; notes its scores."""
        index = len(tokens) - self._start
        token = self._continuation[index]
        self.log_probabilities[index] = float(log_probabilities(logits[None])[0, token])
        self.likeliest[index] = int(logits.argmax()) == token
        return Sample(token, None)

    def verify(self, draft: Sample, logits: Logits, tokens: Sequence[int]) -> tuple[int, bool]:
        """Accept the draft, which is the given token; its scores become those of the full model's logits [V]."""
        return self.choose(logits, tokens).token, True
