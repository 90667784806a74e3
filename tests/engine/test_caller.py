"""Calls over few positions copy their rows to bindings that are kept: the same bits as from bound ranges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from balcony_edge import Bundle
from balcony_edge.engine import caller, memory
from balcony_edge.engine.caller import FEW
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.engine.stage import Stage

COUNTS = (3, 1, 2, FEW, 1, FEW + 1, 4, 2)


def decoded(bundle: Bundle) -> list[np.ndarray]:
    """Logits, and all that the stages remember, of tokens that come in batches of some sizes."""
    ladder = Ladder(bundle, Runtime.start("cpu"))
    tokens, found = iter(range(1, 10**6)), []
    while ladder.length < 2 * Ladder.BLOCK:
        for count in COUNTS:
            ladder.append([next(tokens) % ladder.vocabulary for _ in range(count)])
            found += [ladder.logits(depth, ladder.length - count) for depth in ladder.depths]
            if ladder.knows_deep():
                found.append(np.array(ladder.guess()))
    return [*found, *(array for stage in ladder.stages for array in remembered(stage))]


def remembered(stage: Stage) -> list[np.ndarray]:
    """What a stage keeps of the positions that it has consumed."""
    return [buffer.first(stage.cursor) for buffer in stage.state().values()]


def test_kept_bindings_give_the_bits_of_bound_ranges(
    guessing_bundles: Callable[[str], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The buffers grow twice.
    monkeypatch.setattr(Ladder, "BLOCK", 24)
    few = decoded(guessing_bundles("fp32"))
    monkeypatch.setattr(caller, "FEW", 0)
    ranged = decoded(guessing_bundles("fp32"))
    assert len(few) == len(ranged)
    for first, second in zip(few, ranged, strict=True):
        np.testing.assert_array_equal(first, second)


def test_calls_over_few_positions_bind_nothing_anew(
    guessing_bundles: Callable[[str], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    ladder = Ladder(guessing_bundles("fp32"), Runtime.start("cpu"))

    def decode() -> None:
        for count in range(1, FEW + 1):
            ladder.append([5] * count)
            ladder.next_logits(ladder.full)

    decode()
    bound: list[str] = []
    bind = memory.Buffer._bind
    monkeypatch.setattr(memory.Buffer, "_bind", lambda *given: bound.append(given[3]) or bind(*given))
    decode()
    assert bound == []
    ladder.append([5] * (FEW + 1))
    ladder.next_logits(ladder.full)
    assert bound
