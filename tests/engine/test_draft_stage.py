"""The draft stage: its guesses depend on the tokens alone, and are those of the module that was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import Precision
from balcony_edge.engine import prompt_cache
from balcony_edge.engine.draft_stage import Guess
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.engine.stage import DRAFT
from helpers.effort import examples
from helpers.schedules import Step, run_schedule, schedules

ALMOST = 1e-4


@pytest.fixture(scope="module")
def ladder(guessing_bundles: Callable[[Precision], Bundle]) -> Ladder:
    return Ladder(guessing_bundles("fp32"), Runtime.start("cpu"))


def chain(ladder: Ladder, count: int) -> list[Guess]:
    """``count`` guesses in a row after the ladder's tokens, which are then as before."""
    length = ladder.length
    ladder.advance(ladder.full, length - 1)
    found: list[Guess] = []
    for made in range(count):
        assert made or ladder.knows_deep()
        found.append(ladder.guess(made))
        ladder.append([found[-1].token])
    ladder.rewind(length)
    return found


def check_same(found: list[Guess], expected: list[Guess]) -> None:
    assert [one.token for one in found] == [one.token for one in expected]
    np.testing.assert_allclose([one.top for one in found], [one.top for one in expected], rtol=0, atol=ALMOST)


@given(data=st.data())
@settings(max_examples=examples(25))
def test_guesses_depend_on_the_tokens_alone(ladder: Ladder, data: st.DataObject) -> None:
    schedule: list[Step] = data.draw(schedules(ladder.vocabulary, len(ladder.depths)))
    ladder.rewind(0)
    for step in schedule[: data.draw(st.integers(0, len(schedule)))]:
        # Guesses in between leave nothing behind.
        ladder.append(step.tokens)
        if ladder.length > 1:
            chain(ladder, 1 + step.back)
        if step.depth is not None:
            ladder.next_logits(ladder.depths[step.depth])
        ladder.rewind(max(1, ladder.length - step.back))
    tokens = [*ladder.tokens, 1, 2]
    ladder.resume(tokens)
    found = chain(ladder, 3)
    ladder.rewind(0)
    ladder.append(tokens)
    check_same(found, chain(ladder, 3))
    run_schedule(ladder, schedule)


def test_it_is_known_when_it_can_guess(ladder: Ladder) -> None:
    ladder.rewind(0)
    ladder.append([5, 6, 7])
    assert not ladder.knows_deep()
    ladder.advance(ladder.full, 2)
    assert ladder.knows_deep()
    ladder.append([8])
    assert not ladder.knows_deep()
    ladder.advance(ladder.full, 4)
    assert ladder.knows_deep()
    ladder.rewind(1)
    assert not ladder.knows_deep()


def test_a_chain_outlives_buffers_that_grow(
    guessing_bundles: Callable[[Precision], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ladder, "BLOCK", 8)
    tokens = list(range(20, 27))
    small = Ladder(guessing_bundles("fp32"), Runtime.start("cpu"))
    small.append(tokens)
    found = chain(small, 6)
    monkeypatch.undo()
    large = Ladder(guessing_bundles("fp32"), Runtime.start("cpu"))
    large.append(tokens)
    check_same(found, chain(large, 6))


def test_a_saved_prompt_keeps_it(ladder: Ladder, tmp_path: Path) -> None:
    ladder.rewind(0)
    ladder.append([3, 1, 4, 1, 5])
    expected = chain(ladder, 2)
    assert ladder.drafter is not None
    assert ladder.drafter.cursor == 4
    prompt_cache.save(ladder, tmp_path / "prompt")
    ladder.rewind(0)
    assert ladder.drafter.cursor == 0
    prompt_cache.load(ladder, tmp_path / "prompt")
    assert ladder.drafter.cursor == 4
    check_same(chain(ladder, 2), expected)


def test_it_is_observed(ladder: Ladder) -> None:
    """The first guess reads all positions that it lacks in one call, a further one its own."""
    ran: list[tuple[str, int]] = []
    ladder.rewind(0)
    ladder.append([9, 8, 7, 6])
    ladder.observer = lambda stage, positions, elapsed_ms: ran.append((stage, positions))
    try:
        chain(ladder, 3)
    finally:
        ladder.observer = None
    assert [one for one in ran if one[0] == DRAFT] == [(DRAFT, 3), (DRAFT, 1), (DRAFT, 1)]


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_it_is_the_module(
    guessing_bundles: Callable[[Precision], Bundle], tiny_model: Path, precision: Precision, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from balcony_export.exits.draft import stage_of, untrained
    from balcony_export.model.base import load_base
    from balcony_export.training.draft import guesses
    from helpers.tiny import guessing_weights

    base = load_base(tiny_model, device="cpu")
    stage = stage_of(untrained(base))
    stage.load_state_dict({name: torch.from_numpy(value) for name, value in guessing_weights(stage).items()})
    tokens = torch.tensor([[7, 9, 11, 250, 3, 8]])
    ladder = Ladder(guessing_bundles(precision), Runtime.start("cpu"))
    ladder.append(tokens[0].tolist())
    ladder.advance(ladder.full, ladder.length)
    ladder.guess()
    assert ladder.drafter is not None
    deep = torch.from_numpy(ladder.trunk[-1].outputs.host()[:, : ladder.length].copy())
    with torch.no_grad():
        out = next(guesses(base, stage, deep, tokens, base.states(tokens, ()).context, 1))[0, :-1].numpy()
    found = ladder.drafter.outputs.host()[0, : len(out)]
    distance = np.linalg.norm(found - out) / np.linalg.norm(out)
    assert distance < {"fp32": 1e-5, "int8": 0.05, "int4": 0.6}[precision]
