"""Boards as trees of text files, a clock that tests move, and a pynvml that answers what it is told."""

# ruff: noqa: N802 - the fake has pynvml's names

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.boards import BOARDS, Tree


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


@pytest.fixture
def board(make_tree: Callable[[], Tree]) -> Callable[[str], Tree]:
    """``board("agx-orin")``: a fresh tree of that board."""
    return lambda name: make_tree().write(BOARDS[name])


@pytest.fixture(scope="session")
def boards(make_tree: Callable[[], Tree]) -> dict[str, Tree]:
    """One tree of every board, for tests that change only what reading returns."""
    return {name: make_tree().write(files) for name, files in BOARDS.items()}
