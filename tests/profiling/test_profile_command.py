"""``balcony-edge profile``: what it measures and what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import DeviceProfileError
from balcony_edge.profiling.bandwidth import measure_bandwidth
from balcony_edge.profiling.build import _matching, install, measure_device
from balcony_edge.profiling.energy import measure_power
from balcony_edge.telemetry import FakeSensors
from balcony_edge.telemetry.device_profile import read_profile
from balcony_profiles import Identity, Matching
from helpers.command import cli, fails, here
from helpers.still import still


@pytest.fixture(autouse=True)
def _still_time_and_small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sensors are asked before they are looked at; what is read for the bandwidth is small."""
    still(monkeypatch, "balcony_edge.profiling.build", "balcony_edge.doctor.diagnosis")
    monkeypatch.setattr("balcony_edge.profiling.bandwidth.LARGEST_BYTES", 64 << 20)


def ticking(step_s: float = 0.5) -> Callable[[], float]:
    """A clock that moves by ``step_s`` at each look."""
    now = [0.0]

    def clock() -> float:
        now[0] += step_s
        return now[0]

    return clock


def test_the_bandwidth_is_the_best_of_the_rounds_and_needs_room() -> None:
    runtime = Runtime.start("cpu")
    # 64 MiB in 0.5 s of that clock.
    assert measure_bandwidth(runtime, 512 << 20, rounds=2, clock=ticking()) == pytest.approx((64 << 20) / 0.5 / 1e9)
    assert measure_bandwidth(runtime, 8 << 20) is None


class Meter(FakeSensors):
    """A counter that rises by ``watts`` as the clock goes on."""

    def __init__(self) -> None:
        self.now_s, self.joules, self.watts = 0.0, 0.0, 4.0
        super().__init__(clock=lambda: self.now_s)
        self.spend(0.0)

    def spend(self, seconds: float) -> None:
        self.now_s += seconds
        self.joules += self.watts * seconds
        self.set(energy_j=self.joules)


def test_power_at_rest_and_at_work() -> None:
    meter = Meter()

    def work() -> None:
        meter.watts = 24.0
        meter.spend(0.1)

    drawn = measure_power(meter, work, window_s=6.0, clock=lambda: meter.now_s, sleep=meter.spend)
    assert drawn is not None
    assert (drawn.idle_w, drawn.busy_w) == (pytest.approx(4.0), pytest.approx(24.0))
    assert drawn.source == "fake"


def test_without_a_meter_or_with_one_that_goes_away_there_is_no_power() -> None:
    meter = Meter()

    def unplug() -> None:
        meter.now_s += 0.1
        meter.set(energy_j=None)

    assert measure_power(meter, unplug, window_s=2.0, clock=lambda: meter.now_s, sleep=meter.spend) is None
    meter.joules = 0.0
    assert measure_power(meter, meter.watts.__abs__, window_s=2.0, clock=ticking(), sleep=lambda _: None) is None


def test_a_measured_profile_has_what_this_machine_said() -> None:
    meter = Meter()
    meter.set(memory_available_bytes=512 << 20)
    profile = measure_device(None, provider="cpu", sensors=meter, power_window_s=0.0)
    measured = profile.measured
    assert measured is not None
    assert profile.tag == "measured"
    assert profile.power_model is None
    assert (measured.provider, set(measured.token_ms)) == ("cpu", {"3", "6", "9", "12"})
    assert "head" in measured.stages
    assert all(set(points) >= {"1", "2", "4"} for points in measured.stages.values())
    assert profile.runtime is not None
    assert profile.runtime.provider == "cpu"


def test_the_command_writes_a_profile_that_this_machine_is_found_by(tmp_path: Path) -> None:
    pytest.importorskip("tomli_w")
    folder = str(tmp_path / "profiles")
    result = here("profile", "-o", str(tmp_path / "mine.toml"), "--install", BALCONY_PROFILE_DIR=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    profile = read_profile(tmp_path / "mine.toml")
    assert profile.memory_bandwidth_gb_s is not None
    (installed,) = Path(folder).iterdir()
    found = json.loads(here("doctor", "--json", BALCONY_PROFILE_DIR=folder).stdout)
    assert found["profile"]["name"] == installed.stem
    assert found["profile"]["title"] == profile.title
    assert not any("holds no figures" in problem["what"] for problem in found["problems"])


def test_bad_input(tmp_path: Path) -> None:
    fails(here("profile", str(tmp_path / "nowhere")), "nowhere")
    fails(cli("profile", "--provider", "tpu"), "tpu")
    fails(here("profile", "--base", "nonsense"), "nonsense")
    with pytest.raises(DeviceProfileError, match="cannot write"):
        install("x", Path("/dev/null/mine.toml"))


@pytest.mark.parametrize(
    ("identity", "matching"),
    [
        (
            Identity(compatible="nvidia,p3768-0000+p3767-0005-super nvidia,p3767-0005 nvidia,tegra234"),
            Matching(device_tree=("p3767-0005-super",)),
        ),
        (Identity(compatible="raspberrypi,5-model-b brcm,bcm2712"), Matching(device_tree=("raspberrypi,5-model-b",))),
        (Identity(dmi="LENOVO ThinkPad", cpu="x"), Matching(dmi=("LENOVO ThinkPad",))),
        (Identity(cpu="AMD EPYC"), Matching(cpu=("AMD EPYC",))),
        (Identity(), Matching()),
    ],
)
def test_a_machine_is_matched_by_the_most_telling_thing_it_says(identity: Identity, matching: Matching) -> None:
    assert _matching(identity) == matching
