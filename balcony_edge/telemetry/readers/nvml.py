"""Load, clock, power, heat and energy of an NVIDIA GPU, through NVIDIA's management library (NVML).

NVML cannot measure every device that it lists: Orin answers init, count and name and nothing else, Thor some calls, and
a call may succeed with a constant 0. So each signal is asked for and checked on its own.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from balcony_edge.telemetry.readers.cuda_card import cuda_card
from balcony_edge.telemetry.readers.jetson import DEVFREQ, THOR_GPU
from balcony_edge.telemetry.readers.sysfs import Sysfs
from balcony_edge.telemetry.reading import Clock, Reading

REASONS = {
    1: "NVML is not initialised",
    2: "NVML refuses the request",
    3: "this device or driver does not support it",
    4: "no permission to ask NVML",
    6: "NVML finds no such GPU",
    8: "the GPU's external power is not connected",
    9: "the NVIDIA driver is not loaded",
    10: "NVML timed out",
    12: "libnvidia-ml.so.1 is not installed",
    13: "this driver is too old for the call",
    15: "the GPU is lost",
    16: "the GPU needs a reset",
    17: "the operating system blocks the GPU",
    18: "library and driver differ in version: reboot after the driver update",
    21: "no data yet",
    27: "the GPU is not ready",
    28: "NVML finds no such GPU",
}
"""NVML's error codes in words."""

THROTTLE_REASONS = {
    0x04: "power-cap",
    0x08: "hardware-slowdown",
    0x20: "heat",
    0x40: "heat (hardware)",
    0x80: "power-brake",
}
"""Those bits of NVML's clock event reasons that mean that the GPU is slower than it was set to be."""

# After these error codes the handle is useless, and NVML must be initialised again.
_HANDLE_LOST = frozenset({1, 15, 16, 18, 28})


def _import_pynvml() -> Any:
    return importlib.import_module("pynvml")


class NvmlReader:
    """Reads the signals of the NVIDIA GPU that CUDA uses, or of the number ``index`` in NVML's order.

    The first reading imports and initialises the library; it does so again after a fork, which NVML does not survive.
    An open handle keeps a laptop's GPU awake, so call ``close`` once nothing is decoded on it. ``load``: returns the
    module pynvml; a test gives its own.
    """

    def __init__(
        self,
        index: int | None = None,
        *,
        root: str | os.PathLike[str] = "/",
        load: Callable[[], Any] = _import_pynvml,
        sysfs: Sysfs | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._index = index
        self._load = load
        self._sysfs = sysfs or Sysfs(root)
        self._clock = clock
        self._nvml: Any = None
        self._handle: Any = None
        self._process = 0
        self._counted = False

    def gpu_load(self) -> Reading:
        """Busy share of the GPU in the driver's last window, for all processes, 0 to 1."""
        reading = self._ask("ratio", 0, 100, 0.01, lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu)
        if reading.value:
            self._counted = True
        elif reading.value == 0 and not self._counted and THOR_GPU in self._sysfs.entries(DEVFREQ):
            # Older drivers for Thor always report 0. So there a 0 is unknown until another value was seen.
            return self._unknown("ratio", "this driver may not count utilisation: it has only read 0 so far")
        return reading

    def gpu_clock(self) -> Reading:
        """Present graphics clock, Hz."""
        return self._ask(
            "Hz", 1, 10_000, 1e6, lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_GRAPHICS)
        )

    def power(self) -> Reading:
        """Power of the graphics card, W. On Ampere and later it is a mean over one second."""
        return self._ask("W", 1, 2_000_000, 1e-3, lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu))

    def temperature(self) -> Reading:
        """Temperature of the GPU die, °C."""
        return self._ask(
            "°C", 1, 199, 1.0, lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)
        )

    def temperature_limit(self) -> Reading:
        """Temperature at which the GPU slows itself down, °C."""
        reading = self._ask(
            "°C",
            1,
            199,
            1.0,
            lambda nvml, gpu: nvml.nvmlDeviceGetTemperatureThreshold(gpu, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
        )
        return replace(reading, text="slowdown") if reading.known else reading

    def energy(self) -> Reading:
        """Energy since the driver was loaded, J (Volta and later). It is updated every 100 ms."""
        return self._ask("J", 1, 1 << 63, 1e-3, lambda nvml, gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu))

    def throttled(self) -> Reading:
        """1.0 while heat, power or the board's limits hold the clock down, else 0.0. ``text`` has the reasons."""
        # Older drivers and bindings only have the second name.
        reading = self._ask("bool", 0, 1 << 62, 1.0, lambda nvml, gpu: nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu))
        if reading.value is None:
            reading = self._ask(
                "bool", 0, 1 << 62, 1.0, lambda nvml, gpu: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)
            )
        if reading.value is None:
            return reading
        held = [text for bit, text in THROTTLE_REASONS.items() if int(reading.value) & bit]
        return replace(reading, value=float(bool(held)), text=" ".join(held))

    def name(self) -> str | None:
        """The name of the GPU, or ``None``."""
        if self._open():
            return None
        try:
            name = self._nvml.nvmlDeviceGetName(self._handle)
        except Exception:  # as in _ask
            return None
        return name if isinstance(name, str) and name.strip() else None

    def close(self) -> None:
        """Release the GPU; the next reading opens it again."""
        nvml, self._nvml, self._handle = self._nvml, None, None
        if nvml is not None and self._process == os.getpid():
            try:
                nvml.nvmlShutdown()
            except Exception:  # a driver that is gone needs no shutdown
                return

    def _ask(self, unit: str, lowest: int, highest: int, scale: float, call: Callable[[Any, Any], object]) -> Reading:
        """Make one call. In NVML's unit the answer must lie within ``lowest`` and ``highest``.

        The reading is the answer times ``scale``, in ``unit``.
        """
        reason = self._open()
        if reason:
            return self._unknown(unit, reason)
        try:
            value = call(self._nvml, self._handle)
        except Exception as error:  # NVMLError, and ctypes errors on odd drivers
            if getattr(error, "value", None) in _HANDLE_LOST:
                self.close()
            return self._unknown(unit, _explain(error))
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return self._unknown(unit, f"NVML answered {value!r}")
        if not lowest <= value <= highest:
            return self._unknown(unit, f"NVML answered {value}, which is implausible")
        return Reading(value * scale, unit, self._clock(), "nvml")

    def _open(self) -> str:
        """Open a handle for this process if there is none; returns why that fails, empty if it does not."""
        if self._handle is not None and self._process == os.getpid():
            return ""
        if self._gpu_sleeps():
            return "the GPU is suspended, and asking NVML would wake it"
        try:
            nvml = self._load()
        except ImportError:
            return "nvidia-ml-py is not installed"
        try:
            nvml.nvmlInit()
        except Exception as error:  # as in _ask
            return _explain(error)
        self._nvml, self._process = nvml, os.getpid()
        try:
            self._handle = self._card(nvml)
        except Exception as error:  # as in _ask
            self.close()
            return _explain(error)
        return ""

    def _card(self, nvml: Any) -> Any:
        if self._index is None:
            with contextlib.suppress(Exception):  # as in _ask
                if (found := cuda_card(nvml)) is not None:
                    return found
        return nvml.nvmlDeviceGetHandleByIndex(self._index or 0)

    def _gpu_sleeps(self) -> bool:
        """Whether all NVIDIA GPUs on PCI are suspended. A Jetson's GPU is not on PCI."""
        base = "sys/bus/pci/devices"
        states = [
            self._sysfs.text(f"{base}/{device}/power/runtime_status").value
            for device in self._sysfs.entries(base)
            if self._sysfs.text(f"{base}/{device}/vendor").value == "0x10de"
            and (self._sysfs.text(f"{base}/{device}/class").value or "").startswith("0x03")
        ]
        return bool(states) and all(state == "suspended" for state in states)

    def _unknown(self, unit: str, reason: str) -> Reading:
        return Reading.unknown(unit, "nvml", reason, self._clock())


def _explain(error: Exception) -> str:
    code = getattr(error, "value", None)
    if isinstance(code, int):
        return REASONS.get(code, f"NVML error {code}")
    return f"{type(error).__name__}: {error}"
