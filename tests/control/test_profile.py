"""The ladder profile: what is measured, and that it is cached per device and bundle."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from balcony_controller.cost import StageProfile
from balcony_controller.shape import HEAD
from balcony_edge import Bundle
from balcony_edge.control.profile import (
    BATCHES,
    MOST_MEASURED,
    LadderProfile,
    batching_is_bit_exact,
    cache_file,
    load_or_measure,
)
from balcony_edge.control.stage_times import StageTimes, Stopwatch, measure, time_batch, time_single
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.engine.sampling import Logits


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime.start("cpu")


@pytest.fixture(scope="module")
def ladder(runtime: Runtime) -> Ladder:
    return Ladder(Bundle.demo(), runtime)


def test_every_stage_is_measured_for_every_size(ladder: Ladder) -> None:
    profiles, disagreement = measure(ladder, positions=(1, 2, 4), limit_s=0.0)
    assert 0.0 <= disagreement < math.inf
    assert set(profiles) == {HEAD, *(stage.name for stage in ladder.stages)}
    for profile in profiles.values():
        assert [count for count, _ in profile.points] == [1, 2, 4]
        assert all(ms > 0 for _, ms in profile.points)
    assert ladder.length == 0
    assert ladder.observer is None


def test_single_positions_are_timed_in_runs_and_batches_after_the_first_exit(ladder: Ladder) -> None:
    """What went before each timed call, as decoding has it: the same depth, or a run ahead at the first exit."""
    calls: list[tuple[str, int, bool]] = []

    class Spy(Stopwatch):
        def __call__(self, stage: str, count: int, elapsed_ms: float) -> None:
            calls.append((stage, count, count == self.counted))
            super().__call__(stage, count, elapsed_ms)

    ladder.observer = watch = Spy()
    watch.rounds_ms.append(0.0)
    time_single(ladder, watch)
    last = ladder.trunk[-1].name
    assert [counted for stage, _, counted in calls if stage == last][-4:] == [False, True, True, True]
    calls.clear()
    time_batch(ladder, watch, 4)
    timed = [index for index, (_, _, counted) in enumerate(calls) if counted]
    deep = next(index for index in timed if calls[index][0] == ladder.trunk[1].name)
    assert calls[deep][1] == 4
    first = ladder.trunk[0].name
    assert [count for stage, count, _ in calls[:deep] if stage == first][-3:] == [1, 1, 2]
    ladder.observer = None
    ladder.rewind(0)


def test_the_second_run_reads_the_cache(
    ladder: Ladder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path))
    bundle = Bundle.demo()
    first = load_or_measure(bundle, runtime, ladder)
    monkeypatch.setattr("balcony_edge.control.profile.measure", lambda *_: pytest.fail("measured again"))
    assert load_or_measure(bundle, runtime, ladder) == first
    assert [path.suffix for path in cache_file(bundle, runtime).parent.iterdir()] == [".json"]


@pytest.mark.parametrize(
    ("rounds_ms", "disagreement"),
    [([9.0, 2.0, 2.0], 0.0), ([9.0, 1.0, 3.0], 0.5), ([9.0, 2.0, 2.0, 2.0, 8.0], 0.0), ([9.0, 1.0, 2.0, 3.0], 0.5)],
    ids=["steady", "two that differ", "one burst", "spread"],
)
def test_how_far_rounds_disagree(
    ladder: Ladder, monkeypatch: pytest.MonkeyPatch, rounds_ms: list[float], disagreement: float
) -> None:
    """The first round is not counted."""
    times = iter([0.0] + [0.5] * (len(rounds_ms) - 3) + [2.0] * 9)
    left = list(rounds_ms)

    def time_single(ladder: Ladder, watch: Stopwatch) -> None:
        watch.counted = 1
        watch(HEAD, 1, left.pop(0))

    monkeypatch.setattr("balcony_edge.control.stage_times.time_single", time_single)
    found = measure(ladder, positions=(1,), limit_s=1.0, clock=lambda: next(times))
    assert found.disagreement == pytest.approx(disagreement)


def test_a_profile_of_a_busy_machine_is_measured_again_until_it_is_steady(
    ladder: Ladder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steadiest is used, and cached once it is steady; a machine that never is, is measured only so often."""
    monkeypatch.setattr("balcony_edge.control.profile.MOST_DISAGREEMENT", 0.1)
    for number, (found, used) in enumerate([([0.3, 0.02], [0.3, 0.02]), ([0.3, 0.5, 0.2], [0.3, 0.3, 0.2])]):
        monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path / str(number)))
        left = list(found)

        def busy(ladder: Ladder, left: list[float] = left) -> StageTimes:
            share = left.pop(0)
            names = [HEAD, *(stage.name for stage in ladder.stages)]
            return StageTimes({name: StageProfile(((1, 1.0 + share),)) for name in names}, share)

        monkeypatch.setattr("balcony_edge.control.profile.measure", busy)
        for start in range(MOST_MEASURED + 2):
            profile = load_or_measure(Bundle.demo(), runtime, ladder)
            expected = used[min(start, len(used) - 1)]
            assert profile.disagreement == expected
            assert profile.profiles[HEAD].ms(1) == 1.0 + expected
        assert not left


BROKEN = (
    *(
        "",
        "{}",
        '{"version": 0}',
        '{"version": 1, "bit_exact": true, "profiles": {}}',
        "[" * 100_000,
        "null",
        "\x00\n\n",
    ),
    '{"version":5,"bit_exact":true,"profiles":[],"disagreement":0,"measured":1}',
)


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_cache_is_measured_again(
    ladder: Ladder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path))
    path = cache_file(Bundle.demo(), runtime)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    profile = load_or_measure(Bundle.demo(), runtime, ladder)
    assert set(profile.profiles) == {HEAD, *(stage.name for stage in ladder.stages)}
    assert LadderProfile.from_json(path.read_text()) == profile


def test_one_changed_letter_in_a_cache_is_noticed(ladder: Ladder) -> None:
    """It could say that batches have the bits of single positions, where they have not."""
    names = [HEAD, *(stage.name for stage in ladder.stages)]
    known = LadderProfile({name: StageProfile(((1, 1.5), (2, 2.5))) for name in names}, False)
    text = known.to_json()
    assert LadderProfile.from_json(text) == known
    for wrong in (text.replace("false", "true"), text.replace("1.5", "1.6", 1), text[:-2], text + "\n"):
        with pytest.raises(ValueError, match="digest"):
            LadderProfile.from_json(wrong)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_cache_that_is_no_file_does_not_block(
    ladder: Ladder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object]
) -> None:
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path))
    path = cache_file(Bundle.demo(), runtime)
    path.parent.mkdir(parents=True)
    make(path)
    assert load_or_measure(Bundle.demo(), runtime, ladder).profiles
    assert not path.is_file()


def test_a_cache_that_cannot_be_written_is_no_error(
    ladder: Ladder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path / "file"))
    assert load_or_measure(Bundle.demo(), runtime, ladder).profiles


def test_a_kernel_that_differs_at_one_batch_size_is_noticed(ladder: Ladder, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuBLAS gave other bits at some sizes only (seen with bf16 on an H200): each size of a round is tried there."""
    assert {size for batches in BATCHES["cuda"] for size in batches} >= set(range(2, 17))
    exact = batching_is_bit_exact(ladder, "cuda")
    rows = ladder.logits_view

    def differing(depth: int, start: int, stop: int) -> Logits:
        found = rows(depth, start, stop)
        if stop - start == 11:
            found[0, 0] = np.nextafter(found[0, 0], np.float32(np.inf))
        return found

    monkeypatch.setattr(ladder, "logits_view", differing)
    assert batching_is_bit_exact(ladder) is exact
    assert not batching_is_bit_exact(ladder, "cuda")
