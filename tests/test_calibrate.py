"""Calibration: what is measured, and that it is cached per device and bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from balcony_controller.shape import HEAD
from balcony_edge import Bundle
from balcony_edge.calibrate import Calibration, cache_file, load_or_measure, measure
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime.start("cpu")


@pytest.fixture(scope="module")
def ladder(runtime: Runtime) -> Ladder:
    return Ladder(Bundle.demo(), runtime)


def test_every_stage_is_measured_for_every_size(ladder: Ladder) -> None:
    profiles = measure(ladder, positions=(1, 2, 4), limit_s=0.0)
    assert set(profiles) == {HEAD, *(stage.name for stage in ladder.stages)}
    for profile in profiles.values():
        assert [count for count, _ in profile.points] == [1, 2, 4]
        assert all(ms > 0 for _, ms in profile.points)
    assert ladder.length == 0
    assert ladder.observer is None


def test_the_second_run_reads_the_cache(
    ladder: Ladder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path))
    bundle = Bundle.demo()
    first = load_or_measure(bundle, runtime, ladder)
    monkeypatch.setattr("balcony_edge.calibrate.measure", lambda *_: pytest.fail("measured again"))
    assert load_or_measure(bundle, runtime, ladder) == first
    assert [path.suffix for path in cache_file(bundle, runtime).parent.iterdir()] == [".json"]


@pytest.mark.parametrize("text", ["", "{}", '{"version": 0}', '{"version": 1, "bit_exact": true, "profiles": {}}'])
def test_a_broken_cache_is_measured_again(
    ladder: Ladder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path))
    path = cache_file(Bundle.demo(), runtime)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    calibration = load_or_measure(Bundle.demo(), runtime, ladder)
    assert set(calibration.profiles) == {HEAD, *(stage.name for stage in ladder.stages)}
    assert Calibration.from_json(path.read_text()) == calibration


def test_a_cache_that_cannot_be_written_is_no_error(
    ladder: Ladder, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path / "file"))
    assert load_or_measure(Bundle.demo(), runtime, ladder).profiles
