from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_edge.telemetry.injected import InjectedBattery

if TYPE_CHECKING:
    from conftest import FakeClock

PACK = {"level": 0.8, "power_w": 6.1, "on_mains": False, "energy_wh": 40.5}


def values(source: object) -> list[float | None]:
    return [reading.value for reading in InjectedBattery(source).read()]  # type: ignore[arg-type]


def test_a_callable(clock: FakeClock) -> None:
    readings = InjectedBattery(lambda: PACK, clock=clock).read()
    assert [reading.value for reading in readings] == [0.8, 6.1, 0.0, 40.5]
    assert [reading.unit for reading in readings] == ["ratio", "W", "bool", "Wh"]
    assert {(reading.source, reading.time_s) for reading in readings} == {("battery callable", 1000.0)}


def test_a_file_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "battery.json"
    path.write_text(json.dumps(PACK))
    source = InjectedBattery(path)
    assert [reading.value for reading in source.read()] == [0.8, 6.1, 0.0, 40.5]
    path.write_text(json.dumps({"level": 0.5, "power_w": -20, "on_mains": True}))
    assert [reading.value for reading in source.read()] == [0.5, -20.0, 1.0, None]
    path.unlink()
    assert [reading.value for reading in source.read()] == [None] * 4
    assert "ENOENT" in source.read().level.reason


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "battery.json").write_text(json.dumps(PACK))
    monkeypatch.chdir(tmp_path)
    assert values("battery.json") == [0.8, 6.1, 0.0, 40.5]


def test_missing_keys_are_unknown_one_by_one() -> None:
    assert values(lambda: {"level": 1}) == [1.0, None, None, None]
    level, power, mains, _ = InjectedBattery(lambda: {"power_w": 3.0, "level": None}).read()
    assert (level.reason, power.value, mains.reason) == ("no level given", 3.0, "no on_mains given")


@pytest.mark.parametrize(
    "given_pack",
    [
        {"level": 80, "power_w": 1e9, "on_mains": 1, "energy_wh": -1},
        {"level": "0.8", "power_w": "6", "on_mains": "false"},
        {"level": True, "power_w": False, "on_mains": 0.0},
        {"level": float("nan"), "power_w": float("inf"), "on_mains": None},
        {"level": -0.1, "power_w": -(10**400), "on_mains": []},
        [],
        None,
        0.8,
    ],
)
def test_values_that_are_no_battery_are_unknown(given_pack: object) -> None:
    assert values(lambda: given_pack) == [None] * 4


def test_a_callable_that_raises_is_a_reason() -> None:
    def broken() -> dict[str, object]:
        raise OSError("no answer from the pack")

    assert "no answer from the pack" in InjectedBattery(broken).read().level.reason


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "battery.json")
    assert values(tmp_path / "battery.json") == [None] * 4


@pytest.mark.parametrize("text", ['{"level": 0.8, "pow', "", "[" * 4000, "9" * 4095, '{"level": NaN}', "\x00"])
def test_half_a_file_is_unknown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "battery.json"
    path.write_text(text)
    assert values(path) == [None] * 4


JSON: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(PACK)), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_object_gives_plausible_values_or_reasons(thing: object) -> None:
    source: Callable[[], object] = lambda: thing  # noqa: E731
    level, power, mains, _ = InjectedBattery(source).read()  # type: ignore[arg-type]
    assert level.value is None or 0 <= level.value <= 1
    assert power.value is None or abs(power.value) <= 10_000
    assert mains.value in (None, 0.0, 1.0)
    assert all(reading.known or reading.reason for reading in (level, power, mains))
