"""``balcony-edge doctor`` on whole boards and on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from balcony_edge.doctor.checks import device_problems
from balcony_edge.doctor.diagnosis import Diagnosis, diagnose
from balcony_edge.doctor.problem import Problem, Severity, worst
from balcony_edge.doctor.text import lines
from balcony_edge.telemetry import FakeSensors
from balcony_edge.telemetry.device import identify
from balcony_edge.telemetry.device_profile import FoundProfile, find_profile
from balcony_edge.telemetry.presentation import SIGNALS
from balcony_profiles import load
from helpers.boards import BOARDS, Tree
from helpers.command import cli, fails, here
from helpers.still import still


@pytest.fixture(autouse=True)
def _still_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sensors are asked before they are looked at, and nobody waits."""
    still(monkeypatch, "balcony_edge.doctor.diagnosis")


def board(name: str, path: Path) -> Tree:
    return Tree(path).write(BOARDS[name])


def problems(tree: Tree, **values: float | None) -> list[Problem]:
    """What the checks say of a tree with these signals on top."""
    found = find_profile(identify(tree.root, nvml=False))
    return device_problems(tree.sysfs, FakeSensors().set(**values), found)


def by_name(document: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry["value"] for entry in document["signals"]}


WHOLE = {
    # board: profile, JetPack, load, W, tj, mode
    "nano": ("nano", "4", 0.012, 1.750, 33.5, "MAXN"),
    "xavier-nx": ("xavier-nx", "4", 0.431, 5.600, 44.0, None),
    "agx-xavier": ("agx-xavier", "4", 0.005, 6.926, 36.5, None),
    "orin-nano": ("orin-nano-8gb", "6", 0.774, 9.250304, 63.781, "7W"),
    "orin-nano-super": ("orin-nano-super", "6", 0.995, 25.0, 67.25, "MAXN_SUPER"),
    "orin-nx": ("orin-nx-16gb", "6", 0.990, 29.4, 92.0, "MAXN_SUPER"),
    "agx-orin": ("agx-orin-64gb", "7.2", 0.774, 13.907, 52.968, "30W"),
    "agx-orin-idle": ("agx-orin-64gb", "5", 0.0, 6.708, 46.0, None),
    "thor": ("agx-thor-t5000", "7.0", None, 53.0, 55.1, "120W"),
    "raspberry-pi-4": ("raspberry-pi-4", None, None, None, 48.686, None),
    "raspberry-pi-5": ("raspberry-pi-5", None, None, None, 58.95, None),
    "rk3588": ("rk3588", None, None, None, 63.6, None),
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_board_is_recognised_and_read_as_its_owner_published_it(name: str, tmp_path: Path) -> None:
    document = diagnose(board(name, tmp_path).root).to_json()
    profile, jetpack, load_share, watts, heat, mode = WHOLE[name]
    values = by_name(document)
    assert document["profile"]["name"] == profile
    assert document["device"]["jetpack"] == jetpack
    assert values["gpu.load"] == load_share
    assert values["power.total"] == (None if watts is None else pytest.approx(watts))
    assert values["temperature.chip"] == heat
    assert document["power_mode"] == mode
    assert document["runtime"] is None


def test_the_document_keeps_its_form(tmp_path: Path) -> None:
    document = diagnose(board("orin-nx", tmp_path).root).to_json()
    assert json.loads(json.dumps(document)) == document
    assert [entry["name"] for entry in document["signals"]] == [signal.name for signal in SIGNALS.values()]
    for entry in document["signals"]:
        assert list(entry) == ["name", "value", "unit", "source", "age_s", "reason"]
        known = entry["value"] is not None
        assert (entry["age_s"] is not None, entry["reason"] is None) == (known, known)
    for problem in document["problems"]:
        assert list(problem) == ["severity", "what", "next"]
        assert problem["severity"] in ("info", "warning", "error")
        assert problem["next"]
    assert document["severity"] == document["problems"][0]["severity"] == "warning"


@pytest.mark.parametrize(
    ("name", "mode", "what", "then", "severity"),
    [
        ("agx-orin", None, "power mode is 30W, and this board also has MAXN: expect about half", "-m 0", "warning"),
        ("orin-nano", None, "power mode is 7W, and this board also has 15W: expect about half", "-m 0", "warning"),
        ("thor", None, "power mode is 120W, and this board also has MAXN", "-m 0", "info"),
        ("orin-nano-super", 0, "power mode is 15W, and this board also has MAXN_SUPER", "-m 2", "warning"),
    ],
)
def test_a_power_mode_that_costs_speed(
    tmp_path: Path, name: str, mode: int | None, what: str, then: str, severity: str
) -> None:
    tree = board(name, tmp_path)
    if mode is not None:
        tree.write({"var/lib/nvpmodel/status": f"pmode:{mode:04d}"})
    found = [problem for problem in diagnose(tree.root).problems if "power mode" in problem.what]
    assert len(found) == 1
    assert what in found[0].what
    assert found[0].next.endswith(then)
    assert found[0].severity.word == severity


@pytest.mark.parametrize("name", ["nano", "orin-nx", "agx-xavier", "raspberry-pi-5"])
def test_the_fastest_mode_and_no_mode_are_no_problem(tmp_path: Path, name: str) -> None:
    assert not [problem for problem in diagnose(board(name, tmp_path).root).problems if "power mode" in problem.what]


def test_throttling_is_told_with_its_reason_and_oc3_alone_is_not_alarming(tmp_path: Path) -> None:
    told = [problem.what for problem in diagnose(board("orin-nx", tmp_path / "a").root).problems]
    assert any("holds its clocks down now (gpu)" in what for what in told)
    assert any("cut the clocks 12 times since boot" in what for what in told)
    only_oc3 = diagnose(board("orin-nano-super", tmp_path / "b").root).problems
    assert [(problem.severity.word, "oc3 has fired 37" in problem.what) for problem in only_oc3] == [("info", True)]
    weak = diagnose(board("raspberry-pi-5", tmp_path / "c").root).problems
    assert any("undervoltage" in problem.what and "power supply" in problem.next for problem in weak)


def test_a_gpu_capped_below_its_clock(tmp_path: Path) -> None:
    tree = board("agx-orin", tmp_path).write({"sys/class/devfreq/17000000.gpu/max_freq": 612_000_000})
    assert any("612 MHz of 1300 MHz" in problem.what for problem in problems(tree))
    tree.write({"sys/class/devfreq/17000000.gpu/max_freq": 1_300_500_000})
    assert not any("MHz" in problem.what for problem in problems(tree))


def test_heat_near_the_limit_of_the_device_or_else_of_its_profile(tmp_path: Path) -> None:
    tree = board("raspberry-pi-5", tmp_path)
    assert any("at 80 °C" in problem.what for problem in problems(tree, temperature_c=78.0))
    assert any("at 99 °C" in problem.what for problem in problems(tree, temperature_c=96, temperature_limit_c=99))
    assert not any("°C" in problem.what for problem in problems(tree, temperature_c=60.0))
    assert not any("°C" in problem.what for problem in problems(tree))


@pytest.mark.parametrize(
    ("files", "what", "then"),
    [
        (
            {"policy0/scaling_governor": "powersave", "policy0/scaling_driver": "cpufreq-dt"},
            "governor powersave",
            "cpupower",
        ),
        ({"policy0/scaling_governor": "powersave", "policy0/scaling_driver": "intel_pstate"}, None, None),
        ({"policy0/scaling_governor": "schedutil"}, None, None),
    ],
)
def test_a_processor_held_at_its_lowest_clock(
    tmp_path: Path, files: dict[str, str], what: str | None, then: str | None
) -> None:
    tree = Tree(tmp_path).write({f"sys/devices/system/cpu/cpufreq/{name}": text for name, text in files.items()})
    found = [problem for problem in problems(tree) if "governor" in problem.what]
    assert len(found) == (what is not None)
    assert all(what in problem.what and then in problem.next for problem in found if what and then)


def test_a_machine_set_to_save_power(tmp_path: Path) -> None:
    tree = Tree(tmp_path).write({"sys/firmware/acpi/platform_profile": "low-power"})
    assert any("powerprofilesctl" in problem.next for problem in problems(tree))


@pytest.mark.parametrize(("quota", "threads"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", None)])
def test_a_container_with_fewer_cores_than_it_sees(tmp_path: Path, quota: str, threads: int | None) -> None:
    tree = Tree(tmp_path).write({f"sys/devices/system/cpu/cpu{core}/online": 1 for core in range(8)})
    tree.write({"sys/fs/cgroup/cpu.max": quota, "sys/devices/system/cpu/cpufreq/x": 1})
    found = [problem.next for problem in problems(tree) if "container" in problem.what]
    assert found == ([] if threads is None else [f"export BALCONY_THREADS={threads}"])


def test_a_file_that_may_not_be_read_comes_with_the_command_that_opens_it(tmp_path: Path) -> None:
    path = "/sys/class/powercap/intel-rapl:0/energy_uj"
    sensors = FakeSensors().set()
    reading = sensors.power_w.__class__(
        None, "W", 0.0, "rapl", f"rails: none; rapl: {path}: EACCES (Permission denied)"
    )
    from dataclasses import replace

    snapshot = replace(sensors, power_w=reading, energy_j=reading)
    found = device_problems(Tree(tmp_path).sysfs, snapshot, FoundProfile(load("nano"), "asked for"))
    assert found == [
        Problem(Severity.INFO, f"power.total, energy.total: {path} may not be read", f"sudo chmod a+r {path}")
    ]


def test_an_unknown_jetson_is_not_taken_for_another(tmp_path: Path) -> None:
    tree = Tree(tmp_path).write({"proc/device-tree/compatible": "nvidia,p3767-0001\0nvidia,tegra234\0"})
    diagnosis = diagnose(tree.root, look_s=0.1)
    assert diagnosis.profile.profile is None
    assert "p3767-0001" in diagnosis.problems[-1].what
    assert diagnosis.to_json()["profile"]["name"] is None


def test_severities_are_the_exit_code() -> None:
    def problem(severity: Severity) -> Problem:
        return Problem(severity, "x", "y")

    assert int(worst([])) == 0
    assert int(worst([problem(Severity.INFO)])) == 0
    assert int(worst([problem(Severity.INFO), problem(Severity.WARNING)])) == 1
    assert int(worst([problem(Severity.ERROR), problem(Severity.WARNING)])) == 2


def text(diagnosis: Diagnosis) -> str:
    return "\n".join(line for line, _ in lines(diagnosis))


def test_the_text_names_everything_once(tmp_path: Path) -> None:
    shown = text(diagnose(board("orin-nx", tmp_path).root))
    for title in ("Device", "ONNX Runtime", "Signals", "Unknown here", "Problems"):
        assert f"\n{title}\n" in shown
    for signal in SIGNALS.values():
        assert sum(line.strip().startswith(f"{signal.name} ") for line in shown.splitlines()) == 1
    assert "MAXN_SUPER (mode 0)" in shown
    assert "yes (gpu)" in shown


def test_the_command_on_a_board_has_the_severity_as_its_exit_code(tmp_path: Path) -> None:
    root = str(board("orin-nx", tmp_path / "a").root)
    result = here("doctor", "--root", root)
    assert result.returncode == 1, result.stderr
    assert "29.4 W" in result.stdout
    document = json.loads(here("doctor", "--json", "--root", root).stdout)
    assert document["profile"]["by"] == "device tree p3767-0000"
    fine = here("doctor", "--json", "--root", str(board("orin-nano-super", tmp_path / "b").root))
    assert (fine.returncode, json.loads(fine.stdout)["severity"]) == (0, "info")


def test_the_command_on_this_machine_tries_the_providers() -> None:
    result = here("doctor", "--json")
    document = json.loads(result.stdout)
    assert result.returncode == {"info": 0, "warning": 1, "error": 2}[document["severity"]]
    providers = {entry["name"]: entry["works"] for entry in document["runtime"]["providers"]}
    assert providers["CPUExecutionProvider"] is True
    assert by_name(document)["memory.available"] > 0
    assert by_name(document)["cpu.load"] is not None
    assert "Traceback" not in result.stderr


def test_a_profile_can_be_asked_for_by_name_file_and_environment(tmp_path: Path) -> None:
    root = board("orin-nano", tmp_path).root
    assert diagnose(root, profile="nano", look_s=0.1).profile == FoundProfile(load("nano"), "asked for")
    (tmp_path / "mine.toml").write_text('title = "Mine"\ntag = "measured"\nsource = "me"\n')
    found = diagnose(root, profile=str(tmp_path / "mine.toml"), look_s=0.1).profile.profile
    assert found is not None
    assert found.title == "Mine"
    fails(cli("doctor", "--profile", "nonsense"), "nonsense", "orin-nano-8gb")
    fails(here("doctor", BALCONY_PROFILE=str(tmp_path / "none.toml")), "none.toml")


def test_the_users_own_measured_profile_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALCONY_PROFILE_DIR", str(tmp_path / "profiles"))
    Tree(tmp_path).write(
        {"profiles/mine.toml": 'title = "Mine"\ntag = "measured"\nsource = "me"\n[match]\ndevice_tree = ["p3767-0005"]'}
    )
    identity = identify(board("orin-nano", tmp_path / "a").root, nvml=False)
    found = find_profile(identity)
    assert found.profile is not None
    assert (found.profile.name, found.by) == ("mine", "device tree p3767-0005")
    monkeypatch.setenv("BALCONY_PROFILE", "nano")
    assert find_profile(identity) == FoundProfile(load("nano"), "BALCONY_PROFILE")
