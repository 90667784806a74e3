"""Boards as small trees of text files, a clock that tests move, and a pynvml that answers what it is told."""

# ruff: noqa: N802 - the fake has pynvml's names

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from balcony_edge.telemetry.sysfs import Sysfs, read_file


class Tree:
    """Files below ``root``; ``fail`` makes one of them answer an errno."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.errors: dict[str, int] = {}
        self.contents: dict[str, bytes] = {}

    def write(self, files: Mapping[str, str | int]) -> Tree:
        for path, content in files.items():
            target = self.root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(f"{content}\n")
        return self

    def remove(self, path: str) -> None:
        (self.root / path).unlink()

    def fail(self, path: str, code: int) -> Tree:
        self.errors[path.lstrip("/")] = code
        return self

    @property
    def sysfs(self) -> Sysfs:
        return Sysfs(self.root, self._read)

    def _read(self, path: str, size: int) -> bytes:
        relative = os.path.relpath(path, self.root)
        if relative in self.errors:
            raise OSError(self.errors[relative], os.strerror(self.errors[relative]))
        if relative in self.contents:
            return self.contents[relative][:size]
        return read_file(path, size)


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class NvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"code {value}")
        self.value = value


class FakeNvml:
    """The part of pynvml that is used. A call named in ``errors`` raises that NVML error code."""

    NVML_CLOCK_GRAPHICS = 0
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, answers: Mapping[str, object], errors: Mapping[str, int]) -> None:
        self.answers = dict(answers)
        self.errors = dict(errors)
        self.calls: list[str] = []

    def _answer(self, name: str) -> object:
        self.calls.append(name)
        if name in self.errors:
            raise NvmlError(self.errors[name])
        return self.answers.get(name)

    def nvmlInit(self) -> None:
        self._answer("init")

    def nvmlShutdown(self) -> None:
        self._answer("shutdown")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:
        self._answer("handle")
        return ("gpu", index)

    def nvmlDeviceGetUtilizationRates(self, gpu: object) -> object:
        assert gpu == ("gpu", 0)
        return SimpleNamespace(gpu=self._answer("utilisation"), memory=3)

    def nvmlDeviceGetClockInfo(self, gpu: object, kind: int) -> object:
        return self._answer("clock")

    def nvmlDeviceGetPowerUsage(self, gpu: object) -> object:
        return self._answer("power")

    def nvmlDeviceGetTemperature(self, gpu: object, kind: int) -> object:
        return self._answer("temperature")


NOT_SUPPORTED = 3


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture(scope="session")
def make_tree(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Tree]:
    return lambda: Tree(tmp_path_factory.mktemp("root"))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def make_clock() -> type[FakeClock]:
    return FakeClock


@pytest.fixture
def fake_nvml() -> Callable[..., FakeNvml]:
    """``fake_nvml(utilisation=40, errors={"power": 3})``."""

    def make(errors: Mapping[str, int] | None = None, **answers: object) -> FakeNvml:
        return FakeNvml(answers, errors or {})

    return make


@pytest.fixture
def orin_nvml() -> FakeNvml:
    """An Orin: init, count and name work, every measurement is NotSupported."""
    calls = ("utilisation", "clock", "power", "temperature")
    return FakeNvml({}, dict.fromkeys(calls, NOT_SUPPORTED))


@pytest.fixture
def thor_nvml() -> FakeNvml:
    """A Thor with an older driver: temperature and power, a utilisation stuck at 0, no clock."""
    return FakeNvml({"utilisation": 0, "power": 53_000, "temperature": 55}, {"clock": NOT_SUPPORTED})


def hwmon(number: int, rails: Mapping[int, tuple[str, int, int]], name: str = "ina3221") -> dict[str, str | int]:
    """An INA3221: channel -> (label, mV, mA)."""
    base = f"sys/class/hwmon/hwmon{number}"
    files: dict[str, str | int] = {f"{base}/name": name}
    for channel, (label, millivolts, milliamps) in rails.items():
        files[f"{base}/in{channel}_label"] = label
        files[f"{base}/in{channel}_input"] = millivolts
        files[f"{base}/curr{channel}_input"] = milliamps
    return files


def iio(address: str, device: int, rails: Mapping[str, int]) -> dict[str, str | int]:
    """A JetPack 4 monitor: label -> mW."""
    base = f"sys/bus/i2c/drivers/ina3221x/{address}/iio:device{device}"
    files: dict[str, str | int] = {}
    for channel, (label, milliwatts) in enumerate(rails.items()):
        files[f"{base}/rail_name_{channel}"] = label
        files[f"{base}/in_power{channel}_input"] = milliwatts
    return files


def zones(**temperatures: int) -> dict[str, str | int]:
    """Thermal zones: type (with _ for -) -> milli-°C."""
    files: dict[str, str | int] = {}
    for number, (kind, value) in enumerate(temperatures.items()):
        files[f"sys/class/thermal/thermal_zone{number}/type"] = kind.replace("_", "-")
        files[f"sys/class/thermal/thermal_zone{number}/temp"] = value
    return files


def devfreq(node: str, name: str, load: int | None, hz: int) -> dict[str, str | int]:
    """A GPU under devfreq with its device-tree name (NUL-terminated, as the kernel gives it)."""
    base = f"sys/class/devfreq/{node}"
    files: dict[str, str | int] = {f"{base}/device/of_node/name": f"{name}\0", f"{base}/cur_freq": hz}
    if load is not None:
        files[f"{base}/device/load"] = load
    return files


BOARDS: dict[str, dict[str, str | int]] = {
    # JetPack 7.2 under load; mV x mA gives the mW that were read.
    "agx-orin": {
        **devfreq("17000000.gpu", "gpu", 774, 1_300_500_000),
        **hwmon(
            3,
            {1: ("VDD_GPU_SOC", 3000, 1713), 2: ("VDD_CPU_CV", 4000, 817), 3: ("VIN_SYS_5V0", 5000, 1100)},
        ),
        **hwmon(4, {1: ("NC", 0, 0), 2: ("VDDQ_VDD2_1V8AO", 1000, 301), 3: ("NC", 0, 0)}),
        **zones(cpu_thermal=52968, gpu_thermal=47625),
    },
    # JetPack 5 idle, with the CV cluster off.
    "agx-orin-idle": {
        **devfreq("17000000.ga10b", "ga10b", 0, 306_000_000),
        **hwmon(
            1,
            {1: ("VDD_GPU_SOC", 5000, 478), 2: ("VDD_CPU_CV", 4000, 199), 3: ("VIN_SYS_5V0", 3000, 1174)},
        ),
        **hwmon(2, {1: ("NC", 0, 0), 2: ("VDDQ_VDD2_1V8AO", 1000, 301)}),
        **zones(CPU_therm=46000, CV0_therm=-256000, PMIC_Die=100000),
    },
    "orin-nano": {
        **devfreq("17000000.gpu", "gpu", 774, 624_750_000),
        **hwmon(
            1,
            {
                1: ("VDD_IN", 4984, 1856),
                2: ("VDD_CPU_GPU_CV", 4976, 424),
                3: ("VDD_SOC", 4976, 480),
                4: ("sum of shunt voltages", 24, 9999),
            },
        ),
        **zones(cpu_thermal=63625, cv0_thermal=0, tj_thermal=63781),
    },
    "nano": {
        **devfreq("57000000.gpu", "gpu", 12, 76_800_000),
        **iio("6-0040", 0, {"POM_5V_IN": 1750, "POM_5V_GPU": 40, "POM_5V_CPU": 322}),
        **zones(AO_therm=41000, CPU_therm=33500, GPU_therm=32000, PMIC_Die=100000),
    },
    "agx-xavier": {
        "sys/devices/gpu.0/load": 5,
        **iio("1-0040", 0, {"GPU": 1155, "CPU": 385, "SOC": 2502}),
        **iio("1-0041", 1, {"CV": 0, "VDDRQ": 192, "SYS5V": 2692}),
        **zones(AUX_therm=35000, CPU_therm=36500),
    },
    "thor": {
        "sys/class/devfreq/gpu-gpc-0/cur_freq": 1_575_000_000,
        **hwmon(
            0,
            {1: ("VDD_GPU", 5000, 6480), 2: ("VDD_CPU_SOC_MSS", 5000, 2840), 3: ("VIN_SYS_5V0", 5000, 1280)},
        ),
        "sys/class/hwmon/hwmon1/name": "ina238",
        "sys/class/hwmon/hwmon1/in1_label": "VIN",
        "sys/class/hwmon/hwmon1/power1_input": 53_000_000,
        **zones(cpu_thermal=54000, tj_thermal=55100),
    },
    "thinkpad": {
        "sys/class/power_supply/AC/type": "Mains",
        "sys/class/power_supply/AC/online": 0,
        "sys/class/power_supply/BAT0/type": "Battery",
        "sys/class/power_supply/BAT0/present": 1,
        "sys/class/power_supply/BAT0/status": "Discharging",
        "sys/class/power_supply/BAT0/energy_now": 49450000,
        "sys/class/power_supply/BAT0/energy_full": 50060000,
        "sys/class/power_supply/BAT0/capacity": 98,
        "sys/class/power_supply/BAT0/power_now": 6200000,
    },
}


@pytest.fixture
def board(make_tree: Callable[[], Tree]) -> Callable[[str], Tree]:
    """``board("agx-orin")``: a fresh tree of that board."""
    return lambda name: make_tree().write(BOARDS[name])


@pytest.fixture(scope="session")
def boards(make_tree: Callable[[], Tree]) -> dict[str, Tree]:
    """One tree of every board, for tests that change only what reading returns."""
    return {name: make_tree().write(files) for name, files in BOARDS.items()}
