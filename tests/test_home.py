"""A user without HOME and without a passwd entry, as in many containers."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import Any

import pytest

from balcony_edge.files.cache import cache_folder
from balcony_edge.files.home import expand
from balcony_edge.telemetry.device_profile import profile_folder
from helpers.command import fails, here


@pytest.fixture(autouse=True)
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "BALCONY_CACHE_DIR", "BALCONY_PROFILE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_it_has_no_folders_of_its_own() -> None:
    assert cache_folder() is None
    assert profile_folder() is None
    assert expand("~/bundle") == Path("~/bundle")


def test_the_environment_may_name_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache"


def test_commands_run_and_leave_nothing(tmp_path: Path) -> None:
    result = here("run", "-p", "Once", "-n", "3")
    assert result.returncode == 0, result.stderr
    assert here("doctor").returncode == 0
    fails(here("run", "~/bundle", "-p", "x"), "~/bundle")
    fails(here("run", "owner/name", "-p", "x", "--offline"), "no home", "BALCONY_CACHE_DIR")
    fails(here("profile", "--install"), "no home", "BALCONY_PROFILE_DIR")
    assert list(tmp_path.iterdir()) == []


def test_relative_homes_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "somewhere")
    assert here("run", "-p", "Once", "-n", "3").returncode == 0
    assert list(tmp_path.iterdir()) == []
