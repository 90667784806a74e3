"""Memory: estimated before loading, refused where it is not there, grown with the text."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from balcony_edge import AdaptiveSession
from balcony_edge.bundle.folder import Bundle
from balcony_edge.engine import footprint, ladder
from balcony_edge.engine.footprint import Footprint, available_bytes
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import BundleError, PromptError
from balcony_edge.telemetry import FakeSensors
from helpers.schedules import fresh_logits


@pytest.fixture(autouse=True)
def _free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "available_bytes", lambda: 1 << 40)


def test_the_estimate_counts_what_the_engine_keeps() -> None:
    bundle = Bundle.demo()
    built = Ladder(bundle, Runtime.start("cpu"))
    found = Footprint.of(bundle.manifest)
    kept = sum(buffer.array.nbytes // built._room for stage in built.stages for buffer in stage.state().values())  # type: ignore[union-attr]
    # The caches' spare slots and the gates are rounded away.
    assert found.position == pytest.approx(kept, rel=0.02)
    assert found.weights == sum(
        path.stat().st_size for path in bundle.path.iterdir() if path.name in bundle.manifest.files
    )
    assert found.total(100) - found.total(0) == 100 * found.position


def test_weights_that_do_not_fit_are_refused_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "available_bytes", lambda: 10 << 20)
    with pytest.raises(BundleError, match="free") as caught:
        Ladder(Bundle.demo(), Runtime.start("cpu"))
    assert "--precision int4" in caught.value.hint


def test_replies_that_do_not_fit_are_refused_before_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ladder, "BLOCK", 16)
    with AdaptiveSession(sensors=FakeSensors(), provider="cpu") as session:
        monkeypatch.setattr(ladder, "available_bytes", lambda: footprint.RESERVE_BYTES + 1000)
        with pytest.raises(PromptError, match="more tokens take"):
            session.stream([1, 2, 3], 200)
        assert len(list(session.stream([1, 2, 3], 4, stop=[]))) == 4


def test_an_unknown_amount_of_memory_refuses_nothing() -> None:
    found = Footprint(weights=1 << 50, position=1 << 40)
    found.check_weights("a bundle", None)
    found.check_positions(1 << 20, None)


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "1000000\n", "memory.current": "400000\n"}, 600000),
        ({"memory.max": "max\n", "memory.current": "400000\n"}, 5000000),
        ({"memory.max": "9000000\n", "memory.current": "400000\n"}, 5000000),
        ({"memory.max": "?", "memory.current": "400000\n"}, 5000000),
        ({}, 5000000),
    ],
)
def test_a_control_groups_limit_counts(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], left: int) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5000000))

    def read(path: str) -> str:
        try:
            return files[os.path.basename(path)]  # noqa: PTH119
        except KeyError:
            raise FileNotFoundError(path) from None

    assert available_bytes(read) == left


def test_growing_keeps_every_cache(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """Token by token over many growths, with stages at different cursors, against a ladder that never grew."""
    roomy = Ladder(Bundle.demo(), Runtime.start("cpu"))
    monkeypatch.setattr(Ladder, "BLOCK", 8)
    small = Ladder(Bundle.demo(), Runtime.start("cpu"))
    tokens = rng.integers(0, small.vocabulary, 90).tolist()
    rooms = set()
    for index, token in enumerate(tokens):
        small.append([token])
        small.next_logits(small.depths[index % 3])
        rooms.add(small._room)
    assert len(rooms) > 4
    assert small._room < 256
    for depth in small.depths:
        np.testing.assert_array_equal(small.next_logits(depth), fresh_logits(roomy, tokens, depth)[-1])
