"""Teacher forcing through the decode loop: a given text takes the place of the tokens that would have been drawn.

So a text is scored as the session decodes: under a budget, the controller picks the depth of every token, drafts and
deep passes included, and each token's probability is that of the depth which answered for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from balcony_edge.engine.sampling import Logits, Sample, Sampler
from balcony_export.verification.measures import log_probabilities


class ForcedSampler(Sampler):
    """Always chooses the next token of ``continuation``, which follows ``start`` tokens, and keeps its figures.

    ``log_probabilities``: in nats, one a token of the continuation, of the logits that answered for it last: a deep
    pass that verifies a draft replaces the draft's. ``likeliest``: whether the token had the highest logit there.
    """

    def __init__(self, continuation: Sequence[int], start: int) -> None:
        super().__init__()
        self._continuation = list(continuation)
        self._start = start
        self.log_probabilities = [float("nan")] * len(self._continuation)
        self.likeliest = [False] * len(self._continuation)

    @property
    def plain_greedy(self) -> bool:
        """No: the token is rarely the likeliest one, which judges of an exit's confidence need to know."""
        return False

    def choose(self, logits: Logits, tokens: Sequence[int]) -> Sample:
        """The given token after ``tokens``, whatever the logits [V] say."""
        index = len(tokens) - self._start
        token = self._continuation[index]
        self.log_probabilities[index] = float(log_probabilities(logits[None])[0, token])
        self.likeliest[index] = int(logits.argmax()) == token
        return Sample(token, None)

    def verify(self, draft: Sample, logits: Logits, tokens: Sequence[int]) -> tuple[int, bool]:
        """The draft is the given token, hence kept; its figures become those of the full model's ``logits`` [V]."""
        return self.choose(logits, tokens).token, True
