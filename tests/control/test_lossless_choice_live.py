"""Live: whatever the clock says, and however often lossless policies change in mid-reply, tokens stay the same."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from balcony_controller import Budget, CostModel, Governor
from balcony_edge.bundle.folder import Bundle
from balcony_edge.control.adapter import ladder_shape, quality_model
from balcony_edge.control.stage_times import measure
from balcony_edge.decoding.loop import Decoder
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.sampling import Sampler
from helpers.exact import exact_ladder

PROMPT = [5, 17, 3, 42]
TOKENS = 200


@pytest.fixture(scope="module")
def ladder() -> Ladder:
    return exact_ladder(Bundle.demo())


@pytest.mark.parametrize("seed", range(3))
def test_tokens_are_the_same_when_policies_change_in_mid_reply(
    ladder: Ladder, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Trials all the time, and a clock that says anything.
    for name, tokens in (("FIRST_WAIT", 8), ("LONGER", 1), ("TRIED_TOKENS", 8)):
        monkeypatch.setattr(f"balcony_controller.planning.lossless.LosslessChoice.{name}", tokens)
    monkeypatch.setattr("balcony_controller.planning.selector.PolicySelector._may_try", lambda self, policy: True)
    profiles = measure(ladder, positions=(1, 2, 4), limit_s=0.0).profiles
    governor = Governor(
        ladder_shape(ladder), CostModel(profiles), quality_model(Bundle.demo()), Budget.parse("full"), rounds=True
    )
    lots = random.Random(seed)
    ladder.rewind(0)
    ladder.append(PROMPT)
    ladder.observer = governor.observe_run
    governor.begin({stage.name: ladder.pending(stage) for stage in ladder.stages}, TOKENS)
    decoder = Decoder(ladder, governor, Sampler(), PROMPT, frozenset())
    used = []
    while (missing := len(PROMPT) + TOKENS - len(decoder.tokens)) > 0:
        emitted = decoder.step(missing)
        used.append(governor.policy.depths)
        governor.end_step(len(emitted), lots.choice((0.5, 1.0, 4.0)) * 1e3, charge=missing < TOKENS)
    ladder.observer = None
    assert len(set(used)) > 1
    assert sum(one != other for one, other in pairwise(used)) > 4
    ladder.rewind(0)
    ladder.append(PROMPT)
    for _ in range(TOKENS):
        ladder.append([int(ladder.next_logits(ladder.full).argmax())])
    assert decoder.tokens == ladder.tokens
