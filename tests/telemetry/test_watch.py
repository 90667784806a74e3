"""``balcony-edge watch``: its lines, its recordings, and the live table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from balcony_edge.cli.watch import _bars, _LiveTable
from balcony_edge.telemetry import FakeSensors, Player
from balcony_edge.telemetry.presentation import SIGNALS, format_value, signals
from balcony_edge.telemetry.reading import UNITS, Reading
from helpers.boards import Tree
from helpers.command import fails, here
from helpers.still import still

if TYPE_CHECKING:
    from conftest import FakeClock

Board = Callable[[str], Tree]


@pytest.fixture
def still_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look comes after the sensors have been asked."""
    still(monkeypatch, "balcony_edge.cli.watch")


@pytest.mark.usefixtures("still_time")
def test_without_a_terminal_every_look_is_a_line(board: Board) -> None:
    result = here("watch", "-n", "2", "--interval", "0.3", "--root", str(board("orin-nx").root))
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert "gpu 99 % at 1173 MHz, 29.4 W, 92 °C, throttled (gpu)" in lines[-1]


@pytest.mark.usefixtures("still_time")
def test_json_lines_have_every_signal(board: Board) -> None:
    result = here("watch", "--json", "-n", "2", "--interval", "0.3", "--root", str(board("orin-nano").root))
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(documents) == 2
    by_name = {entry["name"]: entry for entry in documents[-1]["signals"]}
    assert list(by_name) == [signal.name for signal in SIGNALS.values()]
    assert by_name["gpu.load"]["value"] == 0.774
    assert by_name["power.total"]["value"] == pytest.approx(9.250304)
    assert by_name["battery.percent"]["value"] is None
    assert by_name["battery.percent"]["reason"] == "no battery"


@pytest.mark.usefixtures("still_time")
def test_another_devices_files_do_not_mix_with_this_machine(board: Board) -> None:
    result = here("watch", "--json", "-n", "2", "--interval", "0.3", "--root", str(board("thor").root))
    by_name = {entry["name"]: entry for entry in json.loads(result.stdout.splitlines()[-1])["signals"]}
    for name in ("cpu.load", "memory.available", "process.memory"):
        assert by_name[name]["value"] is None
        assert "this machine" in by_name[name]["reason"]


@pytest.mark.usefixtures("still_time")
def test_record_and_play(board: Board, tmp_path: Path) -> None:
    path = str(tmp_path / "orin.jsonl")
    result = here("watch", "-n", "3", "--interval", "0.3", "--root", str(board("orin-nx").root), "--record", path)
    assert result.returncode == 0, result.stderr
    assert "recorded to" in result.stderr
    assert Player(path).device["model"].startswith("NVIDIA Jetson Orin NX")
    played = here("watch", "--play", path, "--interval", "0.3")
    assert played.returncode == 0, played.stderr
    assert "29.4 W" in played.stdout
    fails(here("watch", "-n", "1", "--record", path), "exists already")
    fails(here("watch", "--play", str(tmp_path / "nothing")), "nothing")


def test_ctrl_c_is_the_usual_end_and_the_recording_is_whole(board: Board, tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "t.jsonl"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from balcony_edge.cli.app import main; main()", "watch", "--interval", "0.1"),
            *("--root", str(board("orin-nx").root), "--record", str(path)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        # Where the tests themselves run in the background, the shell has told them to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    # The first looks may come before the sensors have been asked.
    assert any("29.4 W" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    player = Player(path, clock=clock).start()
    clock.advance(player.duration_s)
    assert player.snapshot.power_w.value == pytest.approx(29.4)


@pytest.mark.usefixtures("still_time")
def test_an_injected_battery_from_a_file(board: Board, tmp_path: Path) -> None:
    (tmp_path / "pack.json").write_text('{"level": 0.5, "power_w": 40, "on_mains": false, "energy_wh": 90}')
    root = str(board("orin-nano").root)
    result = here("watch", "-n", "1", "--root", root, "--battery", str(tmp_path / "pack.json"))
    assert "battery 50 % (discharging 40.0 W)" in result.stdout


@pytest.mark.parametrize(
    ("field", "value", "text", "shown"),
    [
        ("cpu_load", 0.451, "", "45 %"),
        ("battery_level", 0.98, "", "98 %"),
        ("gpu_clock_hz", 624.75e6, "", "625 MHz"),
        ("cpu_clock_hz", 2.4e9, "", "2.40 GHz"),
        ("memory_available_bytes", 6.5e9, "", "6.50 GB"),
        ("process_memory_bytes", 512.0, "", "512 B"),
        ("power_w", 9.2503, "", "9.3 W"),
        ("temperature_limit_c", 99.0, "passive", "99.0 °C (passive)"),
        ("throttled", 1.0, "gpu", "yes (gpu)"),
        ("throttled", 0.0, "", "no"),
        ("throttle_events", 3.0, "oc1 1 oc2 0 oc3 2", "3 (oc1 1 oc2 0 oc3 2)"),
        ("power_mode", 2.0, "30W", "30W (mode 2)"),
        ("power_mode", 2.0, "", "mode 2"),
        ("on_mains", None, "", "unknown"),
    ],
)
def test_values_are_shown_as_people_say_them(field: str, value: float | None, text: str, shown: str) -> None:
    assert format_value(field, Reading(value, UNITS[field], 0.0, "x", text=text)) == shown


def test_public_signals_cover_the_snapshot_and_know_their_age() -> None:
    assert list(SIGNALS) == list(UNITS)
    sensors = FakeSensors(clock=lambda: 100.0)
    listed = signals(sensors.set(battery_level=0.98), 101.5)
    by_name = {entry["name"]: entry for entry in listed}
    assert by_name["battery.percent"] == {
        "name": "battery.percent",
        "value": 98.0,
        "unit": "%",
        "source": "fake",
        "age_s": 1.5,
        "reason": None,
    }
    assert by_name["gpu.load"]["value"] is None
    assert by_name["gpu.load"]["age_s"] is None
    assert by_name["gpu.load"]["reason"] == "nothing set"


def test_the_live_table_draws_bars_and_gaps() -> None:
    from rich.console import Console

    sensors, table = FakeSensors(), _LiveTable()
    table.draw(None)
    for value in (0.0, 0.5, None, 1.0):
        drawn = table.draw(sensors.set(gpu_load=value))
    console = Console(width=120)
    with console.capture() as capture:
        console.print(drawn)
    line = next(line for line in capture.get().splitlines() if "gpu.load" in line)
    assert "100 %" in line
    assert "▁▅ █" in line
    assert _bars([None, None], whole=True) == ""
    assert _bars([5.0, 5.0], whole=False) == "▁▁"
