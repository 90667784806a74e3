"""Boards as small trees of text files, with values that owners of such boards have published.

A tree holds what the kernel shows below /sys, /proc and /etc. Where only watts were published, voltage and current are
chosen so that their product is that many.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from balcony_edge.telemetry.readers.sysfs import Sysfs, read_file

Files = dict[str, str | int]


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


def hwmon(number: int, rails: Mapping[int, tuple[str, int, int]], name: str = "ina3221") -> Files:
    """An INA3221: channel -> (label, mV, mA)."""
    base = f"sys/class/hwmon/hwmon{number}"
    files: Files = {f"{base}/name": name}
    for channel, (label, millivolts, milliamps) in rails.items():
        files[f"{base}/in{channel}_label"] = label
        files[f"{base}/in{channel}_input"] = millivolts
        files[f"{base}/curr{channel}_input"] = milliamps
    return files


def iio(address: str, device: int, rails: Mapping[str, int]) -> Files:
    """A JetPack 4 monitor: label -> mW."""
    base = f"sys/bus/i2c/drivers/ina3221x/{address}/iio:device{device}"
    files: Files = {}
    for channel, (label, milliwatts) in enumerate(rails.items()):
        files[f"{base}/rail_name_{channel}"] = label
        files[f"{base}/in_power{channel}_input"] = milliwatts
    return files


def zones(limits: Mapping[str, int] | None = None, **temperatures: int) -> Files:
    """Thermal zones: type (with _ for -) -> milli-°C; ``limits`` are the trip points of each of them."""
    files: Files = {}
    for number, (kind, value) in enumerate(temperatures.items()):
        base = f"sys/class/thermal/thermal_zone{number}"
        files[f"{base}/type"] = kind.replace("_", "-")
        files[f"{base}/temp"] = value
        for trip, (name, limit) in enumerate((limits or {}).items()):
            files[f"{base}/trip_point_{trip}_type"] = name
            files[f"{base}/trip_point_{trip}_temp"] = limit
    return files


def devfreq(node: str, name: str, load: int | None, hz: int, highest_hz: int | None = None) -> Files:
    """A GPU under devfreq with its device-tree name (NUL-terminated, as the kernel gives it)."""
    base = f"sys/class/devfreq/{node}"
    files: Files = {f"{base}/device/of_node/name": f"{name}\0", f"{base}/cur_freq": hz}
    if load is not None:
        files[f"{base}/device/load"] = load
    if highest_hz is not None:
        files[f"{base}/max_freq"] = highest_hz
    return files


def throttling(number: int, counts: tuple[int, int, int], **alerts: int) -> Files:
    """Over-current counters since boot, and throttle alerts (with _ for -) -> cur_state."""
    base = f"sys/class/hwmon/hwmon{number}"
    files: Files = {f"{base}/name": "soctherm_oc"}
    files |= {f"{base}/oc{counter}_event_cnt": count for counter, count in enumerate(counts, 1)}
    for device, (kind, state) in enumerate(alerts.items()):
        files[f"sys/class/thermal/cooling_device{device}/type"] = f"{kind.replace('_', '-')}-throttle-alert"
        files[f"sys/class/thermal/cooling_device{device}/cur_state"] = state
    return files


def jetson(model: str, compatible: str, release: str, mode: int | None = None, modes: str = "") -> Files:
    """Who the board is: model, device tree (space-separated), first line of nv_tegra_release, nvpmodel's mode."""
    files: Files = {
        "sys/firmware/devicetree/base/model": f"{model}\0",
        "proc/device-tree/model": f"{model}\0",
        "proc/device-tree/compatible": "".join(f"nvidia,{name}\0" for name in compatible.split()),
        "etc/nv_tegra_release": release,
    }
    if mode is not None:
        names = "\n".join(f"< POWER_MODEL ID={n} NAME={name} >" for n, name in enumerate(modes.split()))
        files["etc/nvpmodel.conf"] = f"{names}\n< PM_CONFIG DEFAULT={mode} >"
        files["var/lib/nvpmodel/status"] = f"pmode:{mode:04d}"
    return files


def release(major: int, revision: str, board: str = "generic") -> str:
    """The first line of /etc/nv_tegra_release."""
    return f"# R{major} (release), REVISION: {revision}, GCID: 0, BOARD: {board}, EABI: aarch64, DATE: unknown"


BOARDS: dict[str, Files] = {
    # JetPack 7.2 under load.
    "agx-orin": {
        **jetson(
            "NVIDIA Jetson AGX Orin Developer Kit",
            "p3737-0000+p3701-0005 p3701-0005 tegra234",
            release(39, "2.0"),
            2,
            "MAXN 15W 30W 50W",
        ),
        **devfreq("17000000.gpu", "gpu", 774, 1_300_500_000, 1_300_500_000),
        **hwmon(
            3,
            {1: ("VDD_GPU_SOC", 3000, 1713), 2: ("VDD_CPU_CV", 4000, 817), 3: ("VIN_SYS_5V0", 5000, 1100)},
        ),
        **hwmon(4, {1: ("NC", 0, 0), 2: ("VDDQ_VDD2_1V8AO", 1000, 301), 3: ("NC", 0, 0)}),
        **zones({"passive": 99000, "critical": 104500}, cpu_thermal=52968, gpu_thermal=47625),
        **throttling(5, (0, 0, 0), cpu=0, gpu=0),
    },
    # JetPack 5 idle, with the CV cluster off.
    "agx-orin-idle": {
        **jetson(
            "NVIDIA Jetson AGX Orin Developer Kit", "p3737-0000+p3701-0005 p3701-0005 tegra234", release(35, "4.1")
        ),
        **devfreq("17000000.ga10b", "ga10b", 0, 306_000_000),
        **hwmon(
            1,
            {1: ("VDD_GPU_SOC", 5000, 478), 2: ("VDD_CPU_CV", 4000, 199), 3: ("VIN_SYS_5V0", 3000, 1174)},
        ),
        **hwmon(2, {1: ("NC", 0, 0), 2: ("VDDQ_VDD2_1V8AO", 1000, 301)}),
        **zones(CPU_therm=46000, CV0_therm=-256000, PMIC_Die=100000),
    },
    # JetPack 6 in a mode that holds it down.
    "orin-nano": {
        **jetson(
            "NVIDIA Jetson Orin Nano Developer Kit",
            "p3768-0000+p3767-0005 p3767-0005 tegra234",
            release(36, "3.0"),
            1,
            "15W 7W",
        ),
        **devfreq("17000000.gpu", "gpu", 774, 624_750_000, 624_750_000),
        **hwmon(
            1,
            {
                1: ("VDD_IN", 4984, 1856),
                2: ("VDD_CPU_GPU_CV", 4976, 424),
                3: ("VDD_SOC", 4976, 480),
                4: ("sum of shunt voltages", 24, 9999),
            },
        ),
        **zones({"active": 51000, "passive": 99000}, cpu_thermal=63625, cv0_thermal=0, tj_thermal=63781),
        **throttling(2, (1, 0, 2), cpu=0, gpu=0, hot_surface=0),
    },
    "orin-nano-super": {
        **jetson(
            "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
            "p3768-0000+p3767-0005-super p3767-0005 tegra234",
            release(36, "4.3"),
            2,
            "15W 25W MAXN_SUPER 7W",
        ),
        **devfreq("17000000.gpu", "gpu", 995, 1_020_000_000, 1_020_000_000),
        **hwmon(1, {1: ("VDD_IN", 5000, 5000), 2: ("VDD_CPU_GPU_CV", 5000, 2000), 3: ("VDD_SOC", 5000, 700)}),
        **zones({"passive": 99000}, cpu_thermal=66000, gpu_thermal=67250, tj_thermal=67250),
        **throttling(2, (0, 0, 37), cpu=0, gpu=0),
    },
    # MAXN_SUPER at a junction of 92 °C, throttled.
    "orin-nx": {
        **jetson(
            "NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
            "p3768-0000+p3767-0000-super p3767-0000 tegra234",
            release(36, "4.3"),
            0,
            "MAXN_SUPER 10W 15W 25W 40W",
        ),
        **devfreq("17000000.gpu", "gpu", 990, 1_173_000_000, 1_173_000_000),
        **hwmon(0, {1: ("VDD_IN", 4900, 6000), 2: ("VDD_CPU_GPU_CV", 4900, 4000), 3: ("VDD_SOC", 4900, 900)}),
        **zones({"passive": 99000}, cpu_thermal=91000, tj_thermal=92000),
        **throttling(1, (12, 0, 240), cpu=0, gpu=1),
    },
    # Both load files of a Xavier NX, and none under devfreq.
    "xavier-nx": {
        **jetson(
            "NVIDIA Jetson Xavier NX Developer Kit", "p3509-0000+p3668-0001 p3668-0001 tegra194", release(32, "7")
        ),
        "sys/devices/platform/gpu.0/load": 431,
        "sys/devices/gpu.0/load": 431,
        **iio("7-0040", 0, {"VDD_IN": 5600, "VDD_CPU_GPU_CV": 1800, "VDD_SOC": 1300}),
        **zones(AUX_therm=42500, CPU_therm=44000, GPU_therm=43000, PMIC_Die=100000),
    },
    "nano": {
        **jetson(
            "NVIDIA Jetson Nano Developer Kit",
            "p3449-0000-b00+p3448-0000-b00 jetson-nano tegra210",
            release(32, "7.1", "t210ref"),
            0,
            "MAXN 5W",
        ),
        **devfreq("57000000.gpu", "gpu", 12, 76_800_000),
        **iio("6-0040", 0, {"POM_5V_IN": 1750, "POM_5V_GPU": 40, "POM_5V_CPU": 322}),
        **zones(AO_therm=41000, CPU_therm=33500, GPU_therm=32000, PMIC_Die=100000),
    },
    "agx-xavier": {
        **jetson("Jetson-AGX", "p2972-0000 p2822-0000+p2888-0001 tegra194", release(32, "7.1", "t186ref")),
        "sys/devices/gpu.0/load": 5,
        **iio("1-0040", 0, {"GPU": 1155, "CPU": 385, "SOC": 2502}),
        **iio("1-0041", 1, {"CV": 0, "VDDRQ": 192, "SYS5V": 2692}),
        **zones(AUX_therm=35000, CPU_therm=36500),
    },
    "thor": {
        **jetson(
            "NVIDIA Jetson AGX Thor Developer Kit",
            "p4071-0000+p3834-0008 p3834-0008 tegra264",
            release(38, "2.0"),
            1,
            "MAXN 120W 90W 70W",
        ),
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
    "raspberry-pi-5": {
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
        "sys/class/hwmon/hwmon0/name": "rpi_volt",
        "sys/class/hwmon/hwmon0/in0_lcrit_alarm": 1,
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": 2_400_000,
        **zones({"active": 50000, "critical": 110000}, cpu_thermal=58950),
    },
    "raspberry-pi-4": {
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5\0",
        "proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
        "sys/class/hwmon/hwmon0/name": "cpu_thermal",
        "sys/class/hwmon/hwmon0/temp1_input": 48686,
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": 1_800_000,
        **zones({"critical": 110000}, cpu_thermal=48686),
    },
    # Zones and trip points of Linux's own rk3588-base.dtsi.
    "rk3588": {
        "proc/device-tree/model": "Radxa ROCK 5B\0",
        "proc/device-tree/compatible": "radxa,rock-5b\0rockchip,rk3588\0",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": 1_800_000,
        "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": 2_256_000,
        **zones(
            {"passive": 85000, "critical": 115000},
            package_thermal=52700,
            bigcore0_thermal=61000,
            bigcore2_thermal=63600,
            littlecore_thermal=55400,
            center_thermal=51800,
            gpu_thermal=50800,
            npu_thermal=51800,
        ),
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
