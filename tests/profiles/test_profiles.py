from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import balcony_profiles
from balcony_edge.errors import DeviceProfileError
from balcony_edge.telemetry.device_profile import read_profile
from balcony_edge.telemetry.readers.rails import TOTALS
from balcony_profiles import (
    DeviceProfile,
    Identity,
    Measured,
    PowerMode,
    ProfileError,
    UnknownProfileError,
    load,
    match,
    names,
    parse,
    to_toml,
)

JETSONS = (
    "agx-orin-64gb",
    "agx-thor-t5000",
    "agx-xavier",
    "nano",
    "orin-nano-8gb",
    "orin-nano-super",
    "orin-nx-16gb",
    "xavier-nx",
)
GENERIC = ("generic-cpu", "generic-nvidia-desktop", "generic-nvidia-laptop")
NAMES = tuple(sorted((*JETSONS, *GENERIC, "raspberry-pi-4", "raspberry-pi-5", "rk3588")))


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
    assert profile.ram_gb == ram
    assert profile.memory_bandwidth_gb_s == bandwidth
    gpu = profile.gpu
    assert gpu is not None
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
        ("raspberry-pi-5", [], None),
    ],
)
def test_power_modes(name: str, modes: list[tuple[int | None, str]], default: str | None) -> None:
    profile = load(name)
    assert [(mode.id, mode.name) for mode in profile.power_modes] == modes
    assert [mode.name for mode in profile.power_modes if mode.default] == ([] if default is None else [default])


def test_the_super_firmware_of_an_orin_nx() -> None:
    profile = load("orin-nx-16gb")
    assert profile.gpu is not None
    assert profile.gpu.super_max_clock_mhz == 1173
    assert profile.super_power_modes == (
        PowerMode(name="MAXN_SUPER", id=0, measured_w=29.4),
        PowerMode(name="40W", id=4, default=True, measured_w=27.6),
    )
    assert load("agx-orin-64gb").super_power_modes == ()


@pytest.mark.parametrize("name", JETSONS)
def test_every_jetson_says_where_it_is_from_matches_only_itself_and_has_a_readable_total(name: str) -> None:
    profile = load(name)
    assert profile.source
    assert profile.tag == "published"
    assert profile.match.device_tree
    for module in profile.match.device_tree:
        found = match(Identity(compatible=f"nvidia,{module}\0nvidia,{profile.soc}\0"))
        assert found is not None
        assert (found.profile, found.by) == (profile, f"device tree {module}")
    assert profile.rails is not None
    assert profile.rails.total in TOTALS
    assert not set(profile.rails.total) & set(profile.rails.parts)
    assert profile.runtime is not None
    assert profile.runtime.provider == "cuda"


@pytest.mark.parametrize("name", GENERIC)
def test_a_generic_profile_has_no_figures_that_nobody_measured(name: str) -> None:
    profile = load(name)
    assert profile.tag == "generic"
    assert (profile.memory_bandwidth_gb_s, profile.power_model, profile.ram_gb) == (None, None, ())


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
        ("raspberrypi,5-model-b\0brcm,bcm2712\0", "raspberry-pi-5"),
        ("nvidia,p3767-0001\0nvidia,tegra234\0", None),  # Orin NX 8GB: no profile, so no guess
        ("nvidia,p3701-0004\0nvidia,tegra234\0", None),
        ("nvidia,p3701-00051\0nvidia,tegra234", None),
        ("raspberrypi,4-model-b\0brcm,bcm2711\0", "raspberry-pi-4"),
        ("raspberrypi,4-compute-module\0brcm,bcm2711\0", "raspberry-pi-4"),
        ("raspberrypi,3-model-b\0brcm,bcm2837\0", "generic-cpu"),
        ("radxa,rock-5b\0rockchip,rk3588\0", "rk3588"),
        ("xunlong,orangepi-5\0rockchip,rk3588s\0", "rk3588"),
        ("radxa,rock-4c-plus\0rockchip,rk3399\0", "generic-cpu"),
        ("", "generic-cpu"),
    ],
)
def test_match_by_device_tree(compatible: str, name: str | None) -> None:
    found = match(Identity(compatible=compatible))
    assert (found and found.profile.name) == name


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        (Identity(nvml="NVIDIA GeForce RTX 4060 Laptop GPU", portable=True), "generic-nvidia-laptop"),
        (Identity(nvml="Quadro T2000 with Max-Q Design", portable=True), "generic-nvidia-laptop"),
        (Identity(nvml="NVIDIA RTX A2000", portable=True), "generic-nvidia-laptop"),
        (Identity(nvml="NVIDIA H100 80GB HBM3", portable=False), "generic-nvidia-desktop"),
        (Identity(nvml="NVIDIA GeForce RTX 4090"), "generic-nvidia-desktop"),
        (Identity(dmi="LENOVO 20XY ThinkPad", portable=True), "generic-cpu"),
        (Identity(nvml="NVIDIA Thor", compatible="nvidia,p3834-0008 nvidia,tegra264"), "agx-thor-t5000"),
        (Identity(nvml="NVIDIA Thor", compatible="nvidia,p9999-0008 nvidia,tegra264"), None),
    ],
)
def test_match_by_what_kind_of_machine_it_is(identity: Identity, name: str | None) -> None:
    found = match(identity)
    assert (found and found.profile.name) == name


def own(name: str, key: str, value: str) -> DeviceProfile:
    return parse(name, f'title = "Mine"\ntag = "measured"\nsource = "me"\n[match]\n{key} = ["{value}"]\n')


def test_the_better_evidence_wins_and_then_the_longer_id() -> None:
    identity = Identity(dmi="ACME Edge Box 9000", cpu="ACME CPU 1", nvml="NVIDIA RTX 1")
    by_dmi, by_longer_dmi = own("a", "dmi", "edge box"), own("b", "dmi", "edge box 9000")
    by_cpu, by_nvml = own("c", "cpu", "acme cpu 1"), own("d", "nvml", "nvidia rtx 1")
    for profiles in ([by_dmi, by_longer_dmi, by_cpu, by_nvml], [by_nvml, by_cpu, by_longer_dmi, by_dmi]):
        found = match(identity, profiles)
        assert found is not None
        assert (found.profile.name, found.by) == ("b", "DMI edge box 9000")
    found = match(identity, [by_nvml, by_cpu])
    assert found is not None
    assert found.profile is by_cpu
    assert match(identity, [own("e", "cpu", "another")]) is None


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
        ("memory_bandwidth_gb_s = 25.6", 'memory_bandwidth_gb_s = "25.6"', "memory_bandwidth_gb_s"),
        ("memory_bandwidth_gb_s = 25.6", "memory_bandwidth_gb_s = nan", "memory_bandwidth_gb_s"),
        ("memory_bandwidth_gb_s = 25.6", "memory_bandwidth_gb_s = 0", "memory_bandwidth_gb_s"),
        ("cores = 128", "cores = 128.5", "cores"),
        ("cores = 128", "cores = 128\nshaders = 1", "shaders"),
        ("ram_gb = [4]", "ram_gb = 4", "ram_gb"),
        ("ram_gb = [4]", "ram_gb = [-4]", "ram_gb"),
        ("id = 1", 'id = "1"', "id"),
        ("default = true", "default = 1", "default"),
        ("default = true", "defualt = true", "defualt"),
        ("[gpu]", "[gqu]", "gqu"),
        ('device_tree = ["p3448"]', "device_tree = [3448]", "device_tree"),
        ('title = "Jetson Nano"', 'title = ""', "title"),
        ('title = "Jetson Nano"', "title = 1979-05-27", "date"),
        ('tag = "published"', 'tag = "guessed"', "tag"),
        ('source = "published', 'sauce = "published', "source"),
        ('provider = "cuda"', 'provider = "tpu"', "provider"),
        ("[gpu]", "[gpu", "nano"),
    ],
)
def test_a_malformed_profile_is_refused_by_key(old: str, new: str, key: str) -> None:
    assert old in nano()
    with pytest.raises(ProfileError, match=key) as caught:
        parse("nano", nano().replace(old, new, 1))
    assert "nano" in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_a_profile_or_a_profile_error(text: str) -> None:
    with pytest.raises(ProfileError):
        parse("x", text)


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(nano())
    profile = read_profile(tmp_path / "mine.toml")
    assert profile == load("nano").model_copy(update={"name": "mine"})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for broken in (tmp_path / "none.toml", tmp_path / "binary.toml", tmp_path):
        with pytest.raises(DeviceProfileError, match=str(broken)):
            read_profile(broken)


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_that_is_written_reads_back_the_same(name: str) -> None:
    pytest.importorskip("tomli_w")
    assert parse(name, to_toml(load(name))) == load(name)


def test_a_measured_profile_reads_back_the_same() -> None:
    pytest.importorskip("tomli_w")
    measured = Measured(
        date="2025-03-05",
        balcony_edge="0.1.0",
        onnxruntime="1.23.2",
        provider="cpu",
        threads=2,
        bundle="ab" * 32,
        token_ms={"3": 0.4, "12": 1.0},
        stages={"head": {"1": 0.125, "2": 0.25}},
    )
    profile = load("nano").model_copy(update={"measured": measured, "tag": "measured"})
    assert parse("nano", to_toml(profile)) == profile


def test_profiles_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load("nano").title = "another"  # type: ignore[misc]


def test_every_exported_name_exists() -> None:
    assert all(hasattr(balcony_profiles, name) for name in balcony_profiles.__all__)


def test_profiles_import_nothing_of_the_project() -> None:
    code = (
        "import balcony_profiles, sys\nprint(sorted({m.split('.')[0] for m in sys.modules if m.startswith('balcony')}))"
    )
    folder = str(files(balcony_profiles).joinpath(".."))
    out = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": folder}, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "['balcony_profiles']"
