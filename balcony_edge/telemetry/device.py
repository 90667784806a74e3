"""Which machine this is: board, processor, memory, system. All of it is read from files below ``root``."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from balcony_edge.files.reading import read_bytes
from balcony_edge.telemetry.processor import processor_name
from balcony_edge.telemetry.readers.nvml import NvmlReader
from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_profiles import Identity

JETPACKS = (
    ((39, 0), "7.2"),
    ((38, 4), "7.1"),
    ((38, 0), "7.0"),
    ((36, 0), "6"),
    ((34, 0), "5"),
    ((32, 0), "4"),
)
"""The first L4T release of each JetPack."""

_DEVICE_TREE = ("proc/device-tree", "sys/firmware/devicetree/base")
_RELEASE = re.compile(r"# R([0-9]+) \(release\), REVISION: ([0-9]+)(?:\.([0-9]+))?")
_LAPTOP_CHASSIS = frozenset({8, 9, 10, 14, 30, 31, 32})
_LONGEST_LINE = 512
MOST_BYTES = 4 << 20


def identify(root: str | os.PathLike[str] = "/", *, nvml: bool = True) -> Identity:
    """What the machine below ``root`` says of itself, to find its device profile.

    ``nvml``: also ask NVIDIA's library for the name of the GPU. A GPU that sleeps is not woken for that.
    """
    sysfs = Sysfs(root)
    card = NvmlReader(sysfs=sysfs) if nvml else None
    try:
        gpu = (card.name() if card is not None else None) or ""
    finally:
        if card is not None:
            card.close()
    return Identity(
        compatible=_device_tree(sysfs, "compatible").replace("\0", " "),
        model=_device_tree(sysfs, "model"),
        dmi=_dmi(sysfs),
        cpu=_cpu(sysfs)[0],
        nvml=gpu,
        portable=_portable(sysfs),
    )


def describe_device(root: str | os.PathLike[str] = "/") -> dict[str, Any]:
    """The machine for people, and for the head of a recording. Unknown values are None.

    It holds no serial number and no host name.
    """
    sysfs = Sysfs(root)
    name, cores = _cpu(sysfs)
    release, jetpack = l4t(sysfs)
    own = os.fspath(root) == "/"
    return {
        "model": _device_tree(sysfs, "model") or _dmi(sysfs) or None,
        "cpu": name or None,
        "cores": cores or (os.cpu_count() if own else None),
        "ram_gb": _ram_gb(sysfs),
        "l4t": release,
        "jetpack": jetpack,
        "system": _system(sysfs),
        "kernel": sysfs.text("proc/sys/kernel/osrelease", _LONGEST_LINE).value,
        "machine": platform.machine() if own else None,
        "python": platform.python_version() if own else None,
    }


def l4t(sysfs: Sysfs) -> tuple[str | None, str | None]:
    """(L4T release, JetPack version) of a Jetson, such as ("36.4.3", "6"); Nones on other machines."""
    found = _RELEASE.match(sysfs.text("etc/nv_tegra_release", _LONGEST_LINE * 8).value or "")
    if found is None:
        return None, None
    release = ".".join(part for part in found.groups() if part is not None)
    number = int(found[1]), int(found[2])
    return release, next((jetpack for least, jetpack in JETPACKS if number >= least), None)


def _device_tree(sysfs: Sysfs, name: str) -> str:
    texts = (sysfs.text(f"{folder}/{name}", _LONGEST_LINE).value for folder in _DEVICE_TREE)
    return next((text for text in texts if text), "")


def _dmi(sysfs: Sysfs) -> str:
    fields = ("sys_vendor", "product_name", "product_version")
    texts = [sysfs.text(f"sys/class/dmi/id/{field}", _LONGEST_LINE).value or "" for field in fields]
    return " ".join(text for text in texts if text and "o.e.m." not in text.lower())


def _portable(sysfs: Sysfs) -> bool | None:
    chassis = sysfs.number("sys/class/dmi/id/chassis_type").value
    return None if chassis is None else chassis in _LAPTOP_CHASSIS


def _cpu(sysfs: Sysfs) -> tuple[str, int]:
    """(name of the processor, number of logical cores); ("", 0) where they are unknown."""
    lines = _lines(sysfs, "proc/cpuinfo")
    return processor_name(lines), sum(line.startswith("processor") for line in lines)


def _ram_gb(sysfs: Sysfs) -> float | None:
    for line in _lines(sysfs, "proc/meminfo"):
        found = re.match(r"MemTotal:\s+([0-9]+) kB", line)
        if found:
            return round(int(found[1]) * 1024 / 1e9, 1)
    return None


def _system(sysfs: Sysfs) -> str | None:
    for line in _lines(sysfs, "etc/os-release"):
        if line.startswith("PRETTY_NAME="):
            return line.split("=", 1)[1].strip().strip('"') or None
    return None


def _lines(sysfs: Sysfs, path: str) -> list[str]:
    """The lines of a file that is too long for ``Sysfs``: no sensor, but below ``--root`` it may be anything."""
    try:
        return read_bytes(Path(sysfs.path(path)), MOST_BYTES, pipes=False).decode("utf-8", "replace").splitlines()
    except (OSError, ValueError):
        return []
