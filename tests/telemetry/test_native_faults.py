"""Kernel errors and hung reads below the real readers, by a library that is loaded before libc."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.boards import BOARDS, Tree
from helpers.native import build, python

Board = Callable[[str], Tree]
HANG = -1


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build("faults.c", tmp_path_factory.mktemp("shim") / "faults.so"))


LOOK = """
import json, sys
from balcony_edge.telemetry import Poller
now = [0.0]
sensors = Poller(root=sys.argv[1], nvml=False, clock=lambda: now[0])
sensors.poll_once()
now[0] += 1.0
print(json.dumps({name: [reading.value, reading.reason] for name, reading in sensors.poll_once()}))
"""


def look(shim: str, tree: Tree, tmp_path: Path, faults: dict[str, int]) -> dict[str, list[object]]:
    spec = tmp_path / "faults"
    spec.write_text("".join(f"{path} {code}\n" for path, code in faults.items()))
    answer: dict[str, list[object]] = python(LOOK, str(tree.root), LD_PRELOAD=shim, FAULTS=str(spec))
    return answer


def test_the_shim_alone_changes_nothing(shim: str, board: Board, tmp_path: Path) -> None:
    answer = look(shim, board("orin-nano"), tmp_path, {})
    assert answer["power_w"][0] == pytest.approx(9.250304)
    assert answer["temperature_c"][0] == 63.781


def test_power_gated_zones_answer_eagain(shim: str, board: Board, tmp_path: Path) -> None:
    answer = look(shim, board("orin-nano"), tmp_path, {"thermal_zone1/temp": errno.EAGAIN})
    assert answer["temperature_c"][0] == 63.781
    every = {f"thermal_zone{zone}/temp": errno.EAGAIN for zone in range(3)}
    value, reason = look(shim, board("orin-nano"), tmp_path, every)["temperature_c"]
    assert value is None
    assert "EAGAIN" in str(reason)


def test_pythons_own_files_cannot_bear_that(shim: str, tmp_path: Path) -> None:
    """Why sensors are read with ``os.pread`` and not through psutil, which adds to what ``read`` returns."""
    (tmp_path / "temp").write_text("51312\n")
    (tmp_path / "faults").write_text(f"temp {errno.EAGAIN}\n")
    code = (
        "import json, sys\n"
        "try:\n    open(sys.argv[1]).read()\n"
        "except Exception as error:\n    print(json.dumps(type(error).__name__))\n"
    )
    answer = python(code, str(tmp_path / "temp"), LD_PRELOAD=shim, FAULTS=str(tmp_path / "faults"))
    assert answer == "TypeError"


@pytest.mark.parametrize(
    ("name", "path", "code", "signal", "word"),
    [
        ("agx-orin", "hwmon3/in2_input", errno.ENODATA, "power_w", "VDD_CPU_CV"),
        ("agx-orin", "17000000.gpu/device/load", errno.EAGAIN, "gpu_load", "EAGAIN"),
        ("agx-orin", "nvpmodel/status", errno.EACCES, "power_mode", "EACCES"),
        ("orin-nano", "hwmon1/curr1_input", errno.EIO, "power_w", "EIO"),
        ("thinkpad", "BAT0/power_now", errno.ENODEV, "battery_power_w", "BAT0"),
        ("thinkpad", "AC/online", errno.ENODEV, "on_mains", "ENODEV"),
        ("orin-nano", "oc1_event_cnt", errno.EACCES, "throttle_events", "EACCES"),
    ],
)
def test_a_failing_file_makes_its_own_signal_unknown_and_no_other(
    shim: str, board: Board, tmp_path: Path, name: str, path: str, code: int, signal: str, word: str
) -> None:
    sound = look(shim, board(name), tmp_path, {})
    answer = look(shim, board(name), tmp_path, {path: code})
    assert answer[signal][0] is None
    assert word in str(answer[signal][1])
    tied = {"power_w": {"energy_j"}, "battery_power_w": {"power_w", "energy_j"}, "on_mains": {"power_w", "energy_j"}}
    for other in sound.keys() - {signal} - tied.get(signal, set()):
        assert answer[other][0] == sound[other][0], other


def test_a_battery_that_vanishes_field_by_field(shim: str, board: Board, tmp_path: Path) -> None:
    fields = ("energy_now", "energy_full", "capacity", "power_now", "present", "status")
    answer = look(shim, board("thinkpad"), tmp_path, {f"BAT0/{field}": errno.ENODEV for field in fields})
    assert [answer[name][0] for name in ("battery_level", "battery_energy_wh", "battery_power_w")] == [None] * 3
    assert answer["on_mains"][0] == 0.0


HUNG = """
import json, os, sys, time
from pathlib import Path
from balcony_edge.telemetry import Poller
faults = Path(os.environ["FAULTS"])
def until(look):
    limit = time.monotonic() + 100
    while not (found := look()) and time.monotonic() < limit:
        time.sleep(0.01)
    return found
with Poller(root=sys.argv[1], nvml=False) as sensors:
    known = until(lambda: sensors.snapshot.power_w.known)
    faults.write_text("curr1_input -1\\n")
    hung = until(lambda: "has not answered" in sensors.snapshot.power_w.reason)
    reason = sensors.snapshot.power_w.reason
    others = until(lambda: sensors.snapshot.temperature_c.value == 63.781 and sensors.snapshot.gpu_load.value == 0.774)
    faults.write_text("")
    again = until(lambda: sensors.snapshot.power_w.known)
print(json.dumps([known, hung, reason, others, again]))
"""


def test_a_read_that_hangs_in_the_kernel_takes_only_its_own_signal(shim: str, board: Board, tmp_path: Path) -> None:
    (tmp_path / "faults").write_text("")
    root = str(board("orin-nano").root)
    known, hung, reason, others, again = python(HUNG, root, LD_PRELOAD=shim, FAULTS=str(tmp_path / "faults"))
    assert (known, hung, others, again) == (True, True, True, True)
    assert "answered" in reason


FIFO = """
import json, os, sys
from balcony_edge.telemetry import Poller
# A writer that never writes: a plain open().read() of this file would wait for ever.
writer = os.open(sys.argv[2], os.O_RDWR)
snapshot = Poller(root=sys.argv[1], nvml=False, clock=lambda: 0.0).poll_once()
print(json.dumps([snapshot.temperature_c.value, snapshot.power_w.value, snapshot.power_w.reason]))
"""


def test_a_fifo_in_a_sensors_place_does_not_hold_anything_up(board: Board) -> None:
    tree = board("orin-nano")
    path = tree.root / "sys/class/hwmon/hwmon1/in1_input"
    path.unlink()
    os.mkfifo(path)
    heat, power, reason = python(FIFO, str(tree.root), str(path))
    assert (heat, power) == (63.781, None)
    assert "in1_input" in reason


DENIED = """
import json, os, sys
from balcony_edge.telemetry import Poller
now = [0.0]
sensors = Poller(root=sys.argv[1], nvml=False, clock=lambda: now[0])
if os.geteuid() == 0:
    os.seteuid(65534)
sensors.poll_once()
now[0] += 1.0
snapshot = sensors.poll_once()
print(json.dumps([snapshot.power_w.reason, snapshot.temperature_c.value]))
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user can enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_a_file_for_root_only_is_a_reason_that_names_it(open_folder: Path) -> None:
    tree = Tree(open_folder / "root").write({**BOARDS["raspberry-pi-5"]})
    counter = "sys/class/powercap/intel-rapl:0/energy_uj"
    tree.write({"sys/class/powercap/intel-rapl:0/name": "package-0", counter: 1})
    (tree.root / counter).chmod(stat.S_IWUSR)
    if os.geteuid() != 0 and os.access(tree.root / counter, os.R_OK):
        pytest.skip("this user may read every file")
    reason, heat = python(DENIED, str(tree.root))
    assert heat == 58.95
    assert "/sys/class/powercap/intel-rapl:0/energy_uj: EACCES" in reason
