"""What a decider and the decode loop tell each other about one token.

A *draft* is a token of an exit that has not been emitted yet. The loop calls ``Decider.judge`` for each token that an
exit gives. After a deep pass it reports to ``Decider.verified`` which of the exits' tokens were the full model's.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Verdict(Enum):
    """What to do with the token that an exit has given."""

    EMIT = "emit"
    """Emit it unverified, and all drafts held before it."""
    HOLD = "hold"
    """Hold it as a draft and go on to the next position."""
    VERIFY = "verify"
    """Hold it as a draft and verify all drafts held in one batched deep pass.

    The accepted prefix of the drafts is emitted, then one token of the full model. Rejected drafts are rewound.
    """
    DEEPEN = "deepen"
    """Discard it and make the deep pass at its position, as if it had not been drafted. For tokens likely wrong.

    The accepted prefix of the drafts held before it is emitted, then one token of the full model.
    """


class Confidence(NamedTuple):
    """How sure an exit is of its token, computed from its logits.

    ``top``: log-probability (nats) of the likeliest token. ``margin``: its logit minus that of the second likeliest.
    ``previous``: ``top`` at the position before, None where the exit's head was not run there.
    """

    top: float
    margin: float
    previous: float | None = None


class Outcome(NamedTuple):
    """What a deep pass has found out about one token of the exit at ``depth``, or about its gate draft.

    ``expected``: the probability of agreement that the decider had predicted. ``agreed``: whether the token is the full
    model's. ``drafted``: whether it was the gate draft instead of the exit's own token.
    """

    depth: int
    expected: float
    agreed: bool
    drafted: bool = False


# Matches that are longer count as this long, in tokens.
MOST_MATCH = 16


class Found(NamedTuple):
    """A place where the text has gone on before. ``match``: how many tokens are the same there, at most MOST_MATCH.

    ``drafts``: how many tokens can be drafted from it.
    """

    match: int
    drafts: int
