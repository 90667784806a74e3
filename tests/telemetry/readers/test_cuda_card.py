"""Of several graphics cards, the one that CUDA uses is read."""

# ruff: noqa: N802  (pynvml's own names)

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from balcony_edge.telemetry.readers import nvml as nvml_reader
from balcony_edge.telemetry.readers.cuda_card import cuda_bus_id, cuda_card
from balcony_edge.telemetry.readers.nvml import NvmlReader

if TYPE_CHECKING:
    from conftest import FakeNvml
    from helpers.boards import Tree

    Fake = Callable[..., FakeNvml]

UUIDS = ["GPU-11aa", "GPU-22bb", "GPU-33cc"]


class Cards:
    """Several cards, as pynvml lists them."""

    def nvmlDeviceGetCount(self) -> int:
        return len(UUIDS)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByPciBusId(self, address: str) -> str:
        return f"at {address}"

    def nvmlDeviceGetUUID(self, handle: int) -> bytes | str:
        return UUIDS[handle].encode() if handle == 2 else UUIDS[handle]


@pytest.mark.parametrize(
    ("visible", "card"),
    [
        ("1", 1),
        ("2,0", 2),
        ("GPU-22", 1),
        ("GPU-33cc,GPU-11aa", 2),
        ("MIG-GPU-22bb/1/0", 1),
        ("", None),
        ("-1", None),
        ("7", None),
        ("GPU-44", None),
        ("MIG-7d4e", None),
    ],
)
def test_the_environment_names_a_card_where_the_driver_does_not(visible: str, card: int | None) -> None:
    assert cuda_card(Cards(), lambda: None, {"CUDA_VISIBLE_DEVICES": visible}) == card


def test_the_drivers_address_goes_before_the_environment() -> None:
    found = cuda_card(Cards(), lambda: "0000:65:00.0", {"CUDA_VISIBLE_DEVICES": "1"})
    assert found == "at 0000:65:00.0"


def test_without_cuda_there_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert cuda_bus_id() is None


def test_one_card_needs_no_question(tree: Tree, fake_nvml: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_reader, "cuda_card", lambda nvml: cuda_card(nvml, lambda: pytest.fail("asked")))
    nvml = fake_nvml(utilisation=40)
    nvml.nvmlDeviceGetCount = lambda: 1  # type: ignore[attr-defined]
    assert NvmlReader(load=lambda: nvml, sysfs=tree.sysfs).gpu_load().value == 0.4


def test_the_reader_asks_for_that_card(tree: Tree, fake_nvml: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_reader, "cuda_card", lambda nvml: ("gpu", 0))
    nvml = fake_nvml(utilisation=40)
    reader = NvmlReader(load=lambda: nvml, sysfs=tree.sysfs)
    assert reader.gpu_load().value == 0.4
    assert "handle" not in nvml.calls
