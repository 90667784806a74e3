"""The real nvidia-ml-py on a C stub of NVIDIA's library: whole devices, old drivers, a GPU that goes away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.boards import Tree
from helpers.native import build, python

pytest.importorskip("pynvml")

LOOK = """
import json, sys
from balcony_edge.telemetry.readers.nvml import NvmlReader
reader = NvmlReader(root=sys.argv[1])
names = ("gpu_load", "gpu_clock", "power", "energy", "temperature", "temperature_limit", "throttled")
readings = {name: getattr(reader, name)() for name in names}
told = {name: [reading.value, reading.reason or reading.text] for name, reading in readings.items()}
print(json.dumps({"name": reader.name(), **told}))
"""

UNSUPPORTED = [None, "this device or driver does not support it"]


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a present driver's library."""
    return str(build("nvml.c", tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1").parent)


@pytest.fixture(scope="module")
def old_stub(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of an older driver's library, which lacks a symbol."""
    library = tmp_path_factory.mktemp("old") / "libnvidia-ml.so.1"
    return str(build("nvml.c", library, "-DWITHOUT_EVENT_REASONS").parent)


def look(folder: str, device: str, root: Path | str = "/nonexistent") -> dict[str, Any]:
    answer: dict[str, Any] = python(LOOK, str(root), LD_LIBRARY_PATH=folder, NVML_STUB=device)
    return answer


def test_an_orin_counts_itself_and_measures_nothing(stub: str) -> None:
    answer = look(stub, "orin")
    assert answer.pop("name") == "Orin (nvgpu)"
    assert list(answer.values()) == [UNSUPPORTED] * 7


def test_a_thor_with_an_old_driver_has_no_load_and_with_a_new_one_it_has(
    stub: str, old_stub: str, board: Callable[[str], Tree]
) -> None:
    root = board("thor").root
    old = look(old_stub, "thor-old", root)
    assert old["gpu_load"][0] is None
    assert "only read 0" in old["gpu_load"][1]
    assert (old["power"][0], old["temperature"][0]) == (11.0, 55.0)
    assert old["throttled"] == old["energy"] == UNSUPPORTED
    new = look(stub, "thor-new", root)
    assert new["gpu_load"][0] == pytest.approx(0.62)
    assert new["gpu_clock"] == UNSUPPORTED


def test_a_data_centre_card_answers_everything(stub: str) -> None:
    assert look(stub, "dgpu") == {
        "name": "NVIDIA H100 80GB HBM3",
        "gpu_load": [0.4, ""],
        "gpu_clock": [1.98e9, ""],
        "power": [312.5, ""],
        "energy": [pytest.approx(123456.789), ""],
        "temperature": [61.0, ""],
        "temperature_limit": [95.0, "slowdown"],
        "throttled": [0.0, ""],
    }


@pytest.mark.parametrize("driver", ["stub", "old_stub"])
def test_a_laptop_says_why_it_is_slow_whatever_the_drivers_age(driver: str, request: pytest.FixtureRequest) -> None:
    answer = look(request.getfixturevalue(driver), "laptop")
    assert answer["throttled"] == [1.0, "power-cap"]
    assert answer["energy"] == UNSUPPORTED


def test_success_with_garbage_is_unknown(stub: str) -> None:
    answer = look(stub, "garbage")
    del answer["name"]
    assert [value for value, _ in answer.values()] == [None] * 7
    assert all("implausible" in reason for _, reason in answer.values())


LOSE = """
import json, os, sys, time
from pathlib import Path
from balcony_edge.telemetry import Poller
lost, now = Path(os.environ["NVML_STUB_LOST"]), [0.0]
sensors = Poller(root="/nonexistent", clock=lambda: now[0])
def look():
    now[0] += 6.0
    return sensors.poll_once().power_w
seen = [look().value]
lost.touch()
gone = look()
seen += [gone.value]
lost.unlink()
seen += [look().value]
pid = os.fork()
if pid == 0:
    os._exit(0 if look().value == 312.5 else 1)
seen += [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), look().value]
sensors.stop()
print(json.dumps([seen, gone.reason]))
"""


def test_a_lost_gpu_is_unknown_then_opened_again_and_survives_a_fork(stub: str, tmp_path: Path) -> None:
    seen, reason = python(LOSE, LD_LIBRARY_PATH=stub, NVML_STUB="dgpu", NVML_STUB_LOST=str(tmp_path / "lost"))
    assert seen == [312.5, None, 312.5, 0, 312.5]
    assert "nvml: the GPU is lost" in reason


DOCTOR = """
import json
import pytest
from balcony_edge.doctor.diagnosis import diagnose
from helpers.still import still
still(pytest.MonkeyPatch(), "balcony_edge.doctor.diagnosis")
print(json.dumps(diagnose().to_json()))
"""


def test_doctor_finds_the_card_and_misses_the_gpu_build(stub: str) -> None:
    document = python(DOCTOR, LD_LIBRARY_PATH=stub, NVML_STUB="dgpu")
    values = {entry["name"]: (entry["value"], entry["source"]) for entry in document["signals"]}
    assert values["gpu.load"] == (0.4, "nvml")
    assert values["power.total"] == (312.5, "nvml")
    assert document["profile"]["name"] == "generic-nvidia-desktop"
    if not any(provider["name"] == "CUDAExecutionProvider" for provider in document["runtime"]["providers"]):
        assert any("cannot use it" in problem["what"] for problem in document["problems"])
