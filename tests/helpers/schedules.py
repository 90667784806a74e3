"""Random schedules of depths, appends and rewinds, and the check that history leaves no trace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from balcony_edge.engine.ladder import Ladder


@dataclass(frozen=True)
class Step:
    """Append ``tokens``, look at depth number ``depth`` (or none), then rewind by ``back`` positions."""

    tokens: tuple[int, ...]
    depth: int | None
    back: int


def schedules(vocabulary: int, depths: int) -> st.SearchStrategy[list[Step]]:
    """Up to eight steps of up to six tokens: well inside the tiny context."""
    token = st.integers(0, vocabulary - 1)
    step = st.builds(
        Step,
        st.lists(token, min_size=1, max_size=6).map(tuple),
        st.none() | st.integers(0, depths - 1),
        st.integers(0, 4),
    )
    return st.lists(step, min_size=1, max_size=8)


def run_schedule(ladder: Ladder, schedule: list[Step]) -> list[int]:
    """Drive the ladder through a schedule; returns the tokens that stand at the end (at least one)."""
    ladder.rewind(0)
    tokens: list[int] = []
    for step in schedule:
        ladder.append(step.tokens)
        tokens += step.tokens
        if step.depth is not None:
            ladder.next_logits(ladder.depths[step.depth])
        back = min(step.back, len(tokens) - 1)
        tokens = tokens[: len(tokens) - back]
        ladder.rewind(len(tokens))
    return tokens


def fresh_logits(ladder: Ladder, tokens: list[int], depth: int) -> np.ndarray:
    """The plain answer: all tokens at once, nothing before."""
    ladder.rewind(0)
    ladder.append(tokens)
    return ladder.logits(depth)


def check_history(ladder: Ladder, schedule: list[Step], tolerance: float) -> None:
    """Invariants 1 and 2: logits after a schedule are those of the plain model, at every depth."""
    tokens = run_schedule(ladder, schedule)
    after = {depth: ladder.next_logits(depth).copy() for depth in reversed(ladder.depths)}
    for depth in ladder.depths:
        plain = fresh_logits(ladder, tokens, depth)[-1]
        np.testing.assert_allclose(after[depth], plain, rtol=0, atol=tolerance)
        if tolerance == 0:
            assert after[depth].argmax() == plain.argmax()
