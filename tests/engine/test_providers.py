"""The invariants on each provider that this machine has: a bundle exported for it, run on it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import Precision, Provider
from balcony_edge.engine import prompt_cache
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from helpers.effort import examples
from helpers.places import MakeBundle
from helpers.schedules import check_history, fresh_logits, run_schedule, schedules
from helpers.tiny import SPLITS
from helpers.uncut import reference, reference_logits

# How far logits may lie from another history's or another provider's, by provider and precision.
PLACES: dict[tuple[Provider, Precision], float] = {("cpu", "fp32"): 1e-4, ("cuda", "fp16"): 0.25, ("cuda", "int8"): 1.0}


class Placed(NamedTuple):
    """A ladder on a provider, how far its logits may lie from others', and the same bundle on the CPU."""

    ladder: Ladder
    tolerance: float
    on_cpu: Ladder


@pytest.fixture(scope="module", params=PLACES, ids="-".join)
def placed(
    request: pytest.FixtureRequest, tiny_bundles: MakeBundle, tmp_path_factory: pytest.TempPathFactory
) -> Placed:
    """The tiny model with untrained exits."""
    provider, precision = request.param
    if provider == "cuda" and Runtime.start("auto").provider != "cuda":
        pytest.skip("no CUDA here")
    made = tiny_bundles(precision, "bit") if provider == "cpu" else _for_cuda(request, precision, tmp_path_factory)
    return Placed(Ladder(made, Runtime.start(provider)), PLACES[request.param], Ladder(made, Runtime.start("cpu")))


def _for_cuda(request: pytest.FixtureRequest, precision: Precision, factory: pytest.TempPathFactory) -> Bundle:
    pytest.importorskip("torch")
    from balcony_export.bundling.writer import export_bundle
    from balcony_export.graphs.formats import ExportOptions

    model: Path = request.getfixturevalue("tiny_model")
    out = factory.mktemp(f"cuda-{precision}") / "bundle"
    options = ExportOptions("cuda", precision)
    return export_bundle(model, out, model="tiny", exits="init", splits=SPLITS, options=options)


@given(data=st.data())
@settings(max_examples=examples(15))
def test_logits_depend_on_the_tokens_alone(placed: Placed, data: st.DataObject) -> None:
    ladder = placed.ladder
    check_history(ladder, data.draw(schedules(ladder.vocabulary, len(ladder.depths))), placed.tolerance)


@given(data=st.data())
@settings(max_examples=examples(10))
def test_a_sequence_moves_from_provider_to_provider(
    placed: Placed, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("moved") / "prompt.safetensors"
    for left, entered in ((placed.on_cpu, placed.ladder), (placed.ladder, placed.on_cpu)):
        tokens = run_schedule(left, data.draw(schedules(left.vocabulary, len(left.depths))))
        prompt_cache.save(left, file)
        assert prompt_cache.load(entered, file) == len(tokens)
        after = {depth: entered.next_logits(depth).copy() for depth in entered.depths}
        for depth, logits in after.items():
            plain = fresh_logits(left, tokens, depth)[-1]
            np.testing.assert_allclose(logits, plain, rtol=0, atol=placed.tolerance)


def test_full_depth_is_the_checkpoint(placed: Placed, tiny_model: Path, rng: np.random.Generator) -> None:
    tokens = rng.integers(0, placed.ladder.vocabulary, 60).tolist()
    expected = reference_logits(reference(tiny_model), tokens)
    actual = fresh_logits(placed.ladder, tokens, placed.ladder.full)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=placed.tolerance)


def test_answers_are_those_of_the_logits(placed: Placed, rng: np.random.Generator) -> None:
    ladder = placed.ladder
    tokens = rng.integers(0, ladder.vocabulary, 20).tolist()
    for depth in ladder.depths:
        logits = fresh_logits(ladder, tokens, depth)
        answers = ladder.answers(depth, 0, len(tokens))
        # Of equals a GPU's TopK gives any.
        for row, expected in enumerate(logits.max(axis=1)):
            assert logits[row, answers.token(row)] == expected
