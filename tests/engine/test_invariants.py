"""The design's invariants, over random schedules of depths, appends and rewinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import Precision
from balcony_edge.control.profile import batching_is_bit_exact
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from helpers.effort import examples
from helpers.places import DEMO_BASE, MakeBundle
from helpers.schedules import Step, check_history, fresh_logits, schedules
from helpers.uncut import reference, reference_logits

FLOAT_EXACT = 1e-4


@pytest.fixture(scope="module")
def ladders(tiny_bundles: MakeBundle) -> dict[tuple[str, str], Ladder]:
    """One ladder per precision and exactness, reused: a schedule must not care what ran before it."""
    runtime = Runtime.start("cpu")
    keys = [("fp32", "bit"), ("fp32", "float"), ("int8", "bit")]
    return {(p, e): Ladder(tiny_bundles(p, e), runtime) for p, e in keys}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def demo() -> Ladder:
    """The shipped demo bundle."""
    return Ladder(Bundle.demo(), Runtime.start("cpu"))


@pytest.fixture(scope="module")
def demo_fp32(demo_export: Bundle) -> Ladder:
    """The demo's checkpoint and exits, exported at fp32."""
    return Ladder(demo_export, Runtime.start("cpu"))


@given(data=st.data())
@settings(max_examples=examples(25))
@pytest.mark.parametrize(("precision", "exactness"), [("fp32", "bit"), ("fp32", "float"), ("int8", "bit")])
def test_logits_depend_on_the_tokens_alone(
    ladders: dict[tuple[str, str], Ladder], precision: str, exactness: str, data: st.DataObject
) -> None:
    ladder = ladders[precision, exactness]
    schedule = data.draw(schedules(ladder.vocabulary, len(ladder.depths)))
    exact = exactness == "bit" and batching_is_bit_exact(ladder)
    check_history(ladder, schedule, 0.0 if exact else FLOAT_EXACT)


@given(data=st.data())
@settings(max_examples=examples(10))
def test_the_demo_bundle_forgets_its_history(demo: Ladder, data: st.DataObject) -> None:
    schedule = data.draw(schedules(demo.vocabulary, len(demo.depths)))
    # Where this machine's int8 kernels are not bit-exact, one rounding can move a logit visibly.
    check_history(demo, schedule, 0.0 if batching_is_bit_exact(demo) else 0.5)


@given(data=st.data())
@settings(max_examples=examples(10))
def test_the_demo_at_fp32_forgets_its_history(demo_fp32: Ladder, data: st.DataObject) -> None:
    schedule = data.draw(schedules(demo_fp32.vocabulary, len(demo_fp32.depths)))
    check_history(demo_fp32, schedule, FLOAT_EXACT)


@pytest.mark.parametrize("exactness", ["bit", "float"])
def test_full_depth_equals_transformers(
    tiny_model: Path, ladders: dict[tuple[str, str], Ladder], exactness: str, rng: np.random.Generator
) -> None:
    ladder = ladders["fp32", exactness]
    tokens = rng.integers(0, ladder.vocabulary, 60).tolist()
    expected = reference_logits(reference(tiny_model), tokens)
    actual = fresh_logits(ladder, tokens, ladder.full)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=FLOAT_EXACT)
    assert (actual.argmax(1) == expected.argmax(1)).all()


def test_the_demo_equals_transformers(demo_fp32: Ladder) -> None:
    """Full-depth logits after exits at every position, and 32 greedy tokens."""
    demo_fp32.rewind(0)
    demo_fp32.append([0])
    found = []
    for position in range(32):
        demo_fp32.next_logits(demo_fp32.depths[position % 3])
        found.append(demo_fp32.next_logits(demo_fp32.full).copy())
        demo_fp32.append([int(found[-1].argmax())])
    # The model is causal: one run of all tokens has the logits of each position.
    expected = reference_logits(reference(DEMO_BASE), demo_fp32.tokens)[:-1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=FLOAT_EXACT)
    assert np.array_equal(np.argmax(found, axis=1), expected.argmax(axis=1))


def test_small_heads_take_the_separate_rope(stories260k: Path, tmp_path: Path) -> None:
    """Heads of 8 cannot be rotated inside the attention kernel."""
    pytest.importorskip("torch")
    from balcony_export.bundling.writer import export_bundle

    bundle = export_bundle(stories260k, tmp_path / "b", model="stories260K", exits="init", splits=[1, 2, 3, 4])
    ladder = Ladder(bundle, Runtime.start("cpu"))
    tokens = [1, *np.random.default_rng(0).integers(3, 512, 50).tolist()]
    expected = reference_logits(reference(stories260k), tokens)
    np.testing.assert_allclose(fresh_logits(ladder, tokens, ladder.full), expected, rtol=0, atol=FLOAT_EXACT)
    check_history(ladder, [Step((5, 6, 7), 0, 0), Step((8,), 4, 2), Step((9, 10), 2, 1)], FLOAT_EXACT)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_the_self_test_tells_the_truth(tiny_bundles: MakeBundle, precision: Precision) -> None:
    """Whatever the self-test says of this machine, other batch shapes than its own confirm."""
    ladder = Ladder(tiny_bundles(precision, "bit"), Runtime.start("cpu"))
    claimed = batching_is_bit_exact(ladder)
    tokens = list(range(40))
    together = fresh_logits(ladder, tokens, ladder.full)
    ladder.rewind(0)
    single = []
    for token in tokens:
        ladder.append([token])
        single.append(ladder.next_logits(ladder.full).copy())
    if claimed:
        np.testing.assert_array_equal(np.stack(single), together)
    elif precision == "fp32":
        np.testing.assert_allclose(np.stack(single), together, rtol=0, atol=FLOAT_EXACT)


def test_lazy_prefill_runs_no_deeper_than_asked(ladders: dict[tuple[str, str], Ladder]) -> None:
    ladder = ladders["fp32", "bit"]
    ladder.rewind(0)
    ladder.append([1, 2, 3, 4])
    ladder.next_logits(1)
    assert [stage.cursor for stage in ladder.trunk] == [4, 0, 0, 0]
    assert {depth: stage.cursor for depth, stage in ladder.exits.items()} == {1: 4, 2: 0, 4: 0}
    ladder.append([5])
    calls: list[tuple[str, int]] = []
    ladder.observer = lambda stage, positions, _ms: calls.append((stage, positions))
    ladder.next_logits(ladder.full)
    ladder.observer = None
    assert calls == [("segment 0-1", 1), ("segment 1-2", 5), ("segment 2-4", 5), ("segment 4-5", 5), ("head", 1)]


def test_rewind_lowers_only_cursors_above(ladders: dict[tuple[str, str], Ladder]) -> None:
    ladder = ladders["fp32", "bit"]
    ladder.rewind(0)
    ladder.append([1, 2, 3, 4])
    ladder.next_logits(2)
    ladder.rewind(3)
    assert [stage.cursor for stage in ladder.trunk] == [3, 3, 0, 0]
    assert ladder.tokens == [1, 2, 3]
    with pytest.raises(ValueError, match="cannot rewind"):
        ladder.rewind(5)
