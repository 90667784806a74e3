"""What the governor and the decode loop say to each other about one token.

Tokens that the user has not been shown are *drafts*. The loop asks ``Governor.judge`` about each token that an exit
has given, and tells ``Governor.verified`` what a deep pass made of them.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Verdict(Enum):
    """What to do with the token that an exit has given."""

    EMIT = "emit"
    """Show it, and all drafts held before it, unverified."""
    HOLD = "hold"
    """Keep it as a draft and go on to the next position."""
    VERIFY = "verify"
    """Keep it as a draft and make one batched deep pass: the drafts' accepted prefix and one token of the full
    model's own are shown, rejected drafts are rewound."""
    DEEPEN = "deepen"
    """Drop it and make the deep pass at this very position, as if the gate had said so: the accepted prefix of the
    drafts held before it and one token of the full model's own are shown. For tokens that are likely wrong."""


class Confidence(NamedTuple):
    """How sure an exit is of its token, computed with its logits.

    ``top``: log-probability (nats) of the likeliest token; ``margin``: logit gap between the first and the second;
    ``previous``: ``top`` of the position before, None where that was not computed.
    """

    top: float
    margin: float
    previous: float | None = None


class Outcome(NamedTuple):
    """What a deep pass has shown of one token of an exit, or of its gate's draft (``drafted``).

    ``expected`` is the governor's own forecast of it.
    """

    depth: int
    expected: float
    agreed: bool
    drafted: bool = False
