from __future__ import annotations

import dataclasses
import subprocess
import sys
from importlib.resources import files

import pytest

import balcony_profiles
from balcony_profiles import DeviceProfile, PowerMode, ProfileError, UnknownProfileError, load, match, names

NAMES = (
    "agx-orin-64gb",
    "agx-thor-t5000",
    "agx-xavier",
    "nano",
    "orin-nano-8gb",
    "orin-nano-super",
    "orin-nx-16gb",
    "xavier-nx",
)


def test_names() -> None:
    assert names() == NAMES


@pytest.mark.parametrize(
    ("name", "ram", "bandwidth", "architecture", "sm", "cores", "mhz"),
    [
        ("nano", (4,), 25.6, "Maxwell", 5.3, 128, 921.6),
        ("xavier-nx", (8, 16), 59.7, "Volta", 7.2, 384, 1100),
        ("agx-xavier", (32, 64), 136.5, "Volta", 7.2, 512, 1377),
        ("orin-nano-8gb", (8,), 68, "Ampere", 8.7, 1024, 625),
        ("orin-nano-super", (8,), 102, "Ampere", 8.7, 1024, 1020),
        ("orin-nx-16gb", (16,), 102, "Ampere", 8.7, 1024, 918),
        ("agx-orin-64gb", (64,), 204.8, "Ampere", 8.7, 2048, 1300),
        ("agx-thor-t5000", (128,), 273, "Blackwell", 11.0, 2560, 1575),
    ],
)
def test_figures(
    name: str, ram: tuple[int, ...], bandwidth: float, architecture: str, sm: float, cores: int, mhz: float
) -> None:
    profile = load(name)
    assert profile.name == name
    assert (profile.ram_gb_options, profile.ram_gb) == (ram, min(ram))
    assert profile.memory_bandwidth_gb_s == bandwidth
    gpu = profile.gpu
    assert (gpu.architecture, gpu.sm, gpu.cores, gpu.max_clock_mhz) == (architecture, sm, cores, mhz)


@pytest.mark.parametrize(
    ("name", "modes", "default"),
    [
        ("nano", [(0, "MAXN"), (1, "5W")], "MAXN"),
        ("xavier-nx", [(None, "10W"), (None, "15W"), (None, "20W")], None),
        ("agx-xavier", [(None, "MAXN"), (None, "10W"), (None, "15W"), (None, "30W")], None),
        ("orin-nano-8gb", [(0, "15W"), (1, "7W")], "15W"),
        ("orin-nano-super", [(0, "15W"), (1, "25W"), (2, "MAXN_SUPER"), (3, "7W")], "25W"),
        ("orin-nx-16gb", [(0, "MAXN"), (1, "10W"), (2, "15W"), (3, "25W")], "15W"),
        ("agx-orin-64gb", [(0, "MAXN"), (1, "15W"), (2, "30W"), (3, "50W")], "30W"),
        ("agx-thor-t5000", [(0, "MAXN"), (1, "120W"), (2, "90W"), (3, "70W")], "120W"),
    ],
)
def test_power_modes(name: str, modes: list[tuple[int | None, str]], default: str | None) -> None:
    profile = load(name)
    assert [(mode.id, mode.name) for mode in profile.power_modes] == modes
    assert sum(mode.default for mode in profile.power_modes) == (default is not None)
    assert (profile.default_power_mode and profile.default_power_mode.name) == default


def test_the_super_firmware_of_an_orin_nx() -> None:
    profile = load("orin-nx-16gb")
    assert profile.gpu.super_max_clock_mhz == 1173
    assert profile.super_power_modes == (PowerMode("MAXN_SUPER", 0), PowerMode("40W", 4, default=True))
    assert load("agx-orin-64gb").super_power_modes == ()


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_says_where_it_is_from_and_matches_only_itself(name: str) -> None:
    profile = load(name)
    assert profile.source
    assert profile.tag == "published"
    assert profile.modules
    for module in profile.modules:
        assert match(f"nvidia,{module}\0nvidia,{profile.soc}\0") == profile


@pytest.mark.parametrize(
    ("compatible", "name"),
    [
        ("nvidia,p3449-0000-b00+p3448-0000-b00\0nvidia,jetson-nano\0nvidia,tegra210\0", "nano"),
        ("nvidia,p3509-0000+p3668-0001\0nvidia,tegra194\0", "xavier-nx"),
        ("nvidia,p2972-0000\0nvidia,p2822-0000+p2888-0001\0nvidia,tegra194\0", "agx-xavier"),
        ("nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0", "orin-nano-8gb"),
        ("nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0", "orin-nano-super"),
        ("nvidia,p3768-0000+p3767-0000-super\0nvidia,p3767-0000\0nvidia,tegra234\0", "orin-nx-16gb"),
        ("nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0", "agx-orin-64gb"),
        ("nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0", "agx-thor-t5000"),
        ("NVIDIA,P3701-0005", "agx-orin-64gb"),
        ("nvidia,p3767-0001\0nvidia,tegra234\0", None),  # Orin NX 8GB: no profile, so no guess
        ("nvidia,p3701-0004\0nvidia,tegra234\0", None),
        ("nvidia,p3701-00051\0", None),
        ("raspberrypi,5-model-b\0brcm,bcm2712\0", None),
        ("", None),
    ],
)
def test_match(compatible: str, name: str | None) -> None:
    found = match(compatible)
    assert (found and found.name) == name


@pytest.mark.parametrize("name", ["orin", "", "../nano", "nano.toml", "__init__"])
def test_an_unknown_profile_lists_the_names(name: str) -> None:
    with pytest.raises(UnknownProfileError) as caught:
        load(name)
    assert isinstance(caught.value, ValueError)
    assert repr(name) in str(caught.value)
    assert all(known in str(caught.value) for known in NAMES)


def nano() -> str:
    return files(balcony_profiles).joinpath("nano.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("memory_bandwidth_gb_s = 25.6", "", "memory_bandwidth_gb_s"),
        ("memory_bandwidth_gb_s = 25.6", 'memory_bandwidth_gb_s = "25.6"', "memory_bandwidth_gb_s"),
        ("memory_bandwidth_gb_s = 25.6", "memory_bandwidth_gb_s = nan", "memory_bandwidth_gb_s"),
        ("cores = 128", "cores = 128.5", "cores"),
        ("cores = 128", "cores = 128\nshaders = 1", "shaders"),
        ("ram_gb = [4]", "ram_gb = []", "ram_gb"),
        ("ram_gb = [4]", "ram_gb = 4", "ram_gb"),
        ("id = 1", 'id = "1"', "id"),
        ("default = true", "default = 1", "default"),
        ("default = true", "defualt = true", "defualt"),
        ("[gpu]", "[gqu]", "gpu"),
        ('modules = ["p3448"]', "modules = [3448]", "modules"),
        ('title = "Jetson Nano"', 'title = ""', "title"),
        ("[gpu]", "[gpu", "nano"),
    ],
)
def test_a_malformed_profile_is_refused_by_key(old: str, new: str, key: str) -> None:
    assert old in nano()
    with pytest.raises(ProfileError, match=key):
        balcony_profiles.parse("nano", nano().replace(old, new, 1))


def test_profiles_are_immutable() -> None:
    profile: DeviceProfile = load("nano")
    with pytest.raises(dataclasses.FrozenInstanceError):
        profile.ram_gb = 8  # type: ignore[misc]


def test_every_exported_name_exists() -> None:
    assert all(hasattr(balcony_profiles, name) for name in balcony_profiles.__all__)


def test_profiles_import_nothing_of_the_project() -> None:
    code = "import balcony_profiles, sys; print([m for m in sys.modules if m.startswith('balcony')])"
    folder = str(files(balcony_profiles).joinpath(".."))
    out = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": folder}, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "['balcony_profiles']"
