"""Which of several graphics cards CUDA computes on. NVML lists all of them, in an order of its own.

CUDA's driver is asked for the PCI address of its first device. It may be unable to answer (after a fork, or in a
process that has no CUDA); then CUDA_VISIBLE_DEVICES is read, where an index is taken in NVML's order.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from typing import Any


def cuda_bus_id() -> str | None:
    """PCI address of CUDA's first device, such as "0000:65:00.0"; None if the driver does not tell."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        device, text = ctypes.c_int(), ctypes.create_string_buffer(32)
        if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
            return None
        if cuda.cuDeviceGetPCIBusId(text, len(text), device):
            return None
    except (OSError, AttributeError):
        return None
    return text.value.decode("ascii", "replace") or None


def cuda_card(
    nvml: Any,
    bus_id: Callable[[], str | None] = cuda_bus_id,
    environment: Mapping[str, str] = os.environ,
) -> Any:
    """NVML's handle of the card that CUDA uses; None if there is only one, or nothing tells which it is.

    ``nvml``: the module pynvml, initialised. Whatever it raises comes out.
    """
    count = nvml.nvmlDeviceGetCount()
    if count < 2:
        return None
    if (address := bus_id()) is not None:
        return nvml.nvmlDeviceGetHandleByPciBusId(address)
    first = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first.isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex(int(first)) if int(first) < count else None
    # A card's UUID may be shortened. A slice of a card has a name of its own; older drivers put the card's into it.
    wanted = first.removeprefix("MIG-").split("/")[0]
    if not wanted.startswith("GPU-"):
        return None
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    return next((handle for handle in handles if _text(nvml.nvmlDeviceGetUUID(handle)).startswith(wanted)), None)


def _text(value: object) -> str:
    """A string of NVML, which older bindings give as bytes."""
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
