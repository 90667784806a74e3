"""The schema of a profile's file. Keys that nobody knows and values of the wrong type are refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PowerMode(_Table):
    """One mode of ``nvpmodel``. Names are caps on clocks, not watts, and ids are not ordered by power."""

    name: Text
    id: Annotated[int, Field(ge=0)] | None = None
    default: bool = False
    nominal_w: Positive | None = None
    """W that the vendor assigns to a mode whose name does not say it."""
    measured_w: Positive | None = None
    """W of the module that somebody has measured in this mode under full load."""


class Gpu(_Table):
    """The graphics processor."""

    architecture: Text | None = None
    sm: Positive | None = None
    """CUDA compute capability."""
    cores: Count | None = None
    max_clock_mhz: Positive | None = None
    super_max_clock_mhz: Positive | None = None
    """MHz with the "Super" firmware, where one profile covers both."""


class Cpu(_Table):
    """The processor."""

    name: Text | None = None
    cores: Count | None = None
    max_clock_mhz: Positive | None = None


class Matching(_Table):
    """How a machine is recognised; each entry is a part of what the machine says, whatever the case."""

    device_tree: tuple[Text, ...] = ()
    """Whole ids in the device tree's ``compatible``: ``p3767-0005`` is not ``p3767-0005-super``."""
    dmi: tuple[Text, ...] = ()
    cpu: tuple[Text, ...] = ()
    nvml: tuple[Text, ...] = ()
    portable: bool | None = None
    """Only laptops (true) or only others (false), for the generic profiles."""


class Rails(_Table):
    """Power rails by label."""

    total: tuple[Text, ...]
    """Those that add up to the module. Nothing else may be added: rails nest."""
    parts: tuple[Text, ...] = ()
    """Others, which the total holds already."""


class RatedLimits(_Table):
    """What the device bears."""

    temperature_c: Positive | None = None
    """Where the chip is slowed down, for a device that does not tell."""
    power_w: Positive | None = None


class Defaults(_Table):
    """How a model runs best here unless somebody says otherwise."""

    provider: Literal["cpu", "cuda"]
    threads: Count | None = None
    """``None``: one for each physical core."""


class ModelledPower(_Table):
    """Watts from load, for a device without a sensor and for planning. A model, and never shown as a reading."""

    idle_w: Positive
    busy_w: Positive | None = None
    source: Text

    def watts(self, load: float) -> float | None:
        """W at a load of 0 to 1, linear between the two ends; ``None`` where the upper end is not known."""
        return None if self.busy_w is None else self.idle_w + (self.busy_w - self.idle_w) * min(1.0, max(0.0, load))


class Measured(_Table):
    """What ``balcony-edge profile`` found, and under which conditions."""

    date: Text
    balcony_edge: Text
    onnxruntime: Text
    provider: Text
    threads: Count
    power_mode: Text | None = None
    bundle: Text
    """sha256 of the bundle that the stages are of."""
    token_ms: dict[str, Positive] = {}
    """Depth -> median ms of a token."""
    token_mj: Positive | None = None
    """Energy of a full-depth token beyond idling, mJ."""
    power_source: Text | None = None
    stages: dict[str, dict[str, Positive]] = {}
    """Stage -> positions in one call -> ms of that call."""


class DeviceProfile(_Table):
    """One device."""

    name: Text
    title: Text
    tag: Literal["published", "generic", "measured"]
    """How far to trust the figures: ``published`` has not been measured by this project."""
    source: Text
    match: Matching = Matching()
    soc: Text | None = None
    jetpack: Text | None = None
    ram_gb: tuple[Count, ...] = ()
    """GB of memory, shared by CPU and GPU on a Jetson; all sizes that the device comes in."""
    memory_bandwidth_gb_s: Positive | None = None
    """Peak GB/s at the highest memory clock, which a power mode can cap; as read by a program if measured."""
    power_modes: tuple[PowerMode, ...] = ()
    super_power_modes: tuple[PowerMode, ...] = ()
    """Modes that the "Super" firmware has instead, as far as known."""
    cpu: Cpu | None = None
    gpu: Gpu | None = None
    rails: Rails | None = None
    limits: RatedLimits = RatedLimits()
    runtime: Defaults | None = None
    power_model: ModelledPower | None = None
    measured: Measured | None = None

    @property
    def default_power_mode(self) -> PowerMode | None:
        """The mode of a freshly flashed device, or ``None`` when that is not known."""
        return next((mode for mode in self.power_modes if mode.default), None)
