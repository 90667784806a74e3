"""A fake /sys below psutil, the readers and the command line at once, changed while they run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.native import python

pytestmark = pytest.mark.skipif(shutil.which("umockdev-run") is None, reason="umockdev-run is not installed")

LAPTOP = """\
P: /devices/platform/AC
E: SUBSYSTEM=power_supply
A: type=Mains
A: online=0

P: /devices/platform/BAT0
E: SUBSYSTEM=power_supply
A: type=Battery
A: present=1
A: status=Discharging
A: energy_now=49450000
A: energy_full=50060000
A: capacity=98
A: power_now=6200000

P: /devices/platform/BAT1
E: SUBSYSTEM=power_supply
A: type=Battery
A: present=1
A: status=Discharging
A: energy_now=10000000
A: energy_full=20000000
A: capacity=50
A: power_now=-3800000

P: /devices/virtual/thermal/thermal_zone0
E: SUBSYSTEM=thermal
A: type=x86_pkg_temp
A: temp=61000
A: trip_point_0_type=passive
A: trip_point_0_temp=95000
"""

BODY = """
import json, os, sys, time
from pathlib import Path
import psutil
from balcony_edge.telemetry import Poller
devices = Path(os.environ["UMOCKDEV_DIR"]) / "sys/devices/platform"
now = [0.0]
sensors = Poller(nvml=False, clock=lambda: now[0])
def look():
    now[0] += 6.0
    snapshot = sensors.poll_once()
    names = ("battery_level", "battery_energy_wh", "battery_power_w", "on_mains", "power_w", "temperature_c")
    return {name: getattr(snapshot, name).value for name in names}
def change(battery, **fields):
    for field, value in fields.items():
        (devices / battery / field).write_text(f"{value}\\n")
seen = [look()]
before = psutil.sensors_battery().percent
change("AC", online=1)
change("BAT0", status="Charging", power_now=30000000)
change("BAT1", status="Not charging", power_now=0)
seen.append(look())
change("BAT1", present=0)
change("BAT0", energy_now=25030000, capacity=50)
seen.append(look())
print(json.dumps([seen, before, psutil.sensors_battery().percent]))
"""


DOCTOR = """
import json
import pytest
from balcony_edge.doctor.diagnosis import diagnose
from helpers.still import still
still(pytest.MonkeyPatch(), "balcony_edge.doctor.diagnosis")
print(json.dumps(diagnose(look_s=0.5).to_json()))
"""


def run(tmp_path: Path, code: str, *arguments: str) -> Any:
    description = tmp_path / "laptop.umockdev"
    description.write_text(LAPTOP)
    return python(code, *arguments, before=["umockdev-run", "-d", str(description), "--"])


def test_batteries_under_a_fake_kernel_with_live_changes(tmp_path: Path) -> None:
    (first, plugged, alone), percent_before, percent_after = run(tmp_path, BODY)
    assert first["battery_level"] == pytest.approx(59.45 / 70.06, abs=1e-4)
    assert first["battery_energy_wh"] == pytest.approx(59.45)
    assert first["battery_power_w"] == first["power_w"] == pytest.approx(10.0)
    assert (first["on_mains"], first["temperature_c"]) == (0.0, 61.0)
    assert plugged["battery_power_w"] == pytest.approx(-30.0)
    assert (plugged["on_mains"], plugged["power_w"]) == (1.0, None)
    assert alone["battery_level"] == pytest.approx(0.5)
    assert alone["battery_energy_wh"] == pytest.approx(25.03)
    # psutil looks at one battery, and at the same files.
    assert (round(percent_before), round(percent_after)) == (99, 50)


def test_doctor_under_a_fake_kernel(tmp_path: Path) -> None:
    document = run(tmp_path, DOCTOR)
    values = {entry["name"]: entry["value"] for entry in document["signals"]}
    assert values["battery.percent"] == pytest.approx(84.856, abs=0.01)
    assert values["battery.power"] == pytest.approx(10.0)
    assert values["battery.on_mains"] == 0.0
    assert (values["temperature.chip"], values["temperature.limit"]) == (61.0, 95.0)
    assert json.dumps(document)
