"""Devices with clocks, as trees of files; a fake nvpmodel; and a place for the journal that is the test's own."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from balcony_edge.telemetry.readers.sysfs import Sysfs
from helpers.boards import BOARDS, Files, Tree

POLICY = "sys/devices/system/cpu/cpufreq/policy"
GPU = "sys/class/devfreq/17000000.gpu"
STATUS = "var/lib/nvpmodel/status"
BOOT = "proc/sys/kernel/random/boot_id"


def policy(number: int, highest: int, steps: str = "", lowest: int = 408_000) -> Files:
    """Cores that share a clock, kHz."""
    base = f"{POLICY}{number}"
    files: Files = {
        f"{base}/cpuinfo_min_freq": lowest,
        f"{base}/cpuinfo_max_freq": highest,
        f"{base}/scaling_min_freq": lowest,
        f"{base}/scaling_max_freq": highest,
    }
    return files | ({f"{base}/scaling_available_frequencies": steps} if steps else {})


ORIN: Files = {
    **BOARDS["orin-nano-super"],
    f"{GPU}/available_frequencies": "306000000 408000000 510000000 612000000 714000000 816000000 918000000 1020000000",
    f"{GPU}/min_freq": 306_000_000,
    **policy(0, 1_728_000, "729600 883200 1036800 1190400 1344000 1497600 1651200 1728000", 729_600),
    **policy(4, 1_728_000, "729600 883200 1036800 1190400 1344000 1497600 1651200 1728000", 729_600),
    BOOT: "9d7e6c3a-0000-4000-8000-000000000001",
}
# Two sizes of cores, as on an RK3588; the large ones have no list of steps.
BIG_LITTLE: Files = {
    **policy(0, 1_800_000, "408000 600000 816000 1008000 1200000 1416000 1608000 1800000"),
    **policy(4, 2_400_000),
    BOOT: "9d7e6c3a-0000-4000-8000-000000000002",
}

# It asks for a reboot for mode 7, fails for 6, changes nothing for 5, never ends for 8, and waits for a file for 3.
NVPMODEL = """#!/bin/sh
echo "$2" >> {folder}/calls
case "$2" in
    7) echo "NVPM WARN: Reboot required for changing to this power mode: 7"
       echo "NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:"
       read answer || exit 255 ;;
    6) echo "NVPM ERROR: Error writing to a file"; exit 1 ;;
    5) exit 0 ;;
    8) /bin/sleep 600 & wait ;;
    3) until [ -e {folder}/go ]; do /bin/sleep 0.02; done ;;
esac
printf 'pmode:%04d\\n' "$2" > {root}/{status}
"""


class FakeNvpmodel:
    """The script of that name. ``calls``: the modes that it was asked for."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        folder.mkdir()
        path = folder / "nvpmodel"
        path.write_text(NVPMODEL.format(folder=folder, root=root, status=STATUS))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    @property
    def calls(self) -> list[int]:
        path = self.folder / "calls"
        return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BALCONY_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(autouse=True)
def nvpmodel(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvpmodel:
    """Before all others on the path, so that no test changes the machine that it runs on."""
    fake = FakeNvpmodel(tmp_path / "bin", root)
    monkeypatch.setenv("PATH", f"{fake.folder}{os.pathsep}{os.environ['PATH']}")
    return fake


@pytest.fixture
def orin(root: Path) -> Sysfs:
    Tree(root).write(ORIN)
    return Sysfs(root)


@pytest.fixture
def big_little(root: Path) -> Sysfs:
    Tree(root).write(BIG_LITTLE)
    return Sysfs(root)


@pytest.fixture
def snapshot(root: Path) -> Callable[[], dict[str, bytes]]:
    """All files of the device with their bytes."""
    return lambda: {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def until(happened: Callable[[], bool]) -> None:
    """Wait for what happens in another process, with a limit that no machine needs."""
    limit = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.02)


@pytest.fixture(name="until")
def _until() -> Callable[[Callable[[], bool]], None]:
    return until
