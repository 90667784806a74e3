"""What processors are called, by the /proc/cpuinfo of boards."""

from __future__ import annotations

from pathlib import Path

import pytest

from balcony_edge.telemetry.device import describe_device, identify
from balcony_edge.telemetry.processor import processor_name


def arm(*cores: tuple[str, str]) -> str:
    """What an arm64 kernel shows: no name, but the numbers of each core."""
    lines = []
    for number, (implementer, part) in enumerate(cores):
        lines += [f"processor\t: {number}", "BogoMIPS\t: 62.50", "Features\t: fp asimd aes asimddp"]
        lines += [f"CPU implementer\t: {implementer}", "CPU architecture: 8", "CPU variant\t: 0x0"]
        lines += [f"CPU part\t: {part}", "CPU revision\t: 1", ""]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (arm(*[("0x41", "0xd42")] * 8), "Cortex-A78AE"),  # Orin
        (arm(*[("0x4e", "0x004")] * 6), "Carmel"),  # Xavier
        (arm(*[("0x41", "0xd05")] * 4, *[("0x41", "0xd0b")] * 4), "Cortex-A55 + Cortex-A76"),  # RK3588
        (arm(*[("0x41", "0xd0b")] * 4) + "Model\t\t: Raspberry Pi 5 Model B Rev 1.0\n", "Cortex-A76"),
        (arm(("0x61", "0x22"), ("0x61", "0x23")), "Arm 0x61:0x022 + Arm 0x61:0x023"),
        ("processor\t: 0\nmodel\t\t: 85\nmodel name\t: Intel(R) Xeon(R) CPU\n", "Intel(R) Xeon(R) CPU"),
        ("processor\t: 0\nmodel name\t: ARMv7 rev 3 (v7l)\nCPU part\t: 0xd08\n", "ARMv7 rev 3 (v7l)"),
        ("CPU implementer\t: zzz\nCPU part\t: \n\n:::\nCPU part", ""),
        ("", ""),
    ],
)
def test_a_processor_has_a_name(cpuinfo: str, name: str, tmp_path: Path) -> None:
    assert processor_name(cpuinfo.splitlines()) == name
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(cpuinfo)
    assert describe_device(tmp_path)["cpu"] == (name or None)
    assert identify(tmp_path, nvml=False).cpu == name
