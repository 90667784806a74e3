"""The schema of a device profile's file. Unknown keys and values of the wrong type are refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0, le=1e15)]
ClockKind = Literal["power mode", "GPU clock", "CPU clock"]
Count = Annotated[int, Field(gt=0, le=1 << 50)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PowerMode(_Table):
    """One mode of ``nvpmodel``. The watts in a name cap clocks; they are not what is drawn. Ids have no order."""

    name: Text
    id: Annotated[int, Field(ge=0, le=1 << 50)] | None = None
    default: bool = False
    nominal_w: Positive | None = None
    """W that the vendor gives for a mode whose name has no watts."""
    measured_w: Positive | None = None
    """Power of the module that somebody has measured in this mode under full load, W."""


class ClockFigures(_Table):
    """What one clock is worth. ``time_factor``: the time of a token over that at the fastest."""

    name: Text
    time_factor: Positive
    idle_w: Annotated[float, Field(ge=0, le=1e4)]
    active_w: Positive
    """W of the whole device at rest, and while it decodes."""


class Clocks(_Table):
    """The clocks that the device can be set to, fastest first, and what they do to a language model's tokens."""

    kind: ClockKind
    source: Text
    figures: Annotated[tuple[ClockFigures, ...], Field(min_length=2)]


class Gpu(_Table):
    """The graphics processor."""

    architecture: Text | None = None
    sm: Positive | None = None
    """CUDA compute capability, such as 8.7."""
    cores: Count | None = None
    max_clock_mhz: Positive | None = None
    super_max_clock_mhz: Positive | None = None
    """MHz with the "Super" firmware, if the device profile covers both."""


class Cpu(_Table):
    """The processor."""

    name: Text | None = None
    cores: Count | None = None
    max_clock_mhz: Positive | None = None


class Matching(_Table):
    """How a machine is recognised. Each entry is a part of what the machine says of itself; case does not matter."""

    device_tree: tuple[Text, ...] = ()
    """Whole ids of the device tree: ``p3767-0005`` is in ``p3767-0005-super`` too; the longest wins."""
    dmi: tuple[Text, ...] = ()
    cpu: tuple[Text, ...] = ()
    nvml: tuple[Text, ...] = ()
    portable: bool | None = None
    """Only laptops (true) or only other machines (false), for the generic profiles."""


class Rails(_Table):
    """Power rails, by label."""

    total: tuple[Text, ...]
    """The rails that add up to the module. No other may be added, since rails are nested."""
    parts: tuple[Text, ...] = ()
    """Other rails, which are included in the total."""


class RatedLimits(_Table):
    """Limits of the device as its vendor rates them."""

    temperature_c: Positive | None = None
    """Temperature at which the chip is slowed down, °C, for a device that does not tell it itself."""
    power_w: Positive | None = None
    """Highest power of the module, W."""


class Defaults(_Table):
    """How a model runs best on this device."""

    provider: Literal["cpu", "cuda"]
    threads: Count | None = None
    """``None``: one per physical core."""


class ModelledPower(_Table):
    """Power at rest and under full load in W, for a device without a sensor. It is an estimate, never a reading."""

    idle_w: Positive
    busy_w: Positive | None = None
    source: Text


class Measured(_Table):
    """What ``balcony-edge profile`` measured, and under which conditions."""

    date: Text
    balcony_edge: Text
    onnxruntime: Text
    provider: Text
    threads: Count
    power_mode: Text | None = None
    bundle: Text
    """Digest (sha256) of the bundle whose stages were timed."""
    token_ms: dict[str, Positive] = {}
    """Depth → median time of a token, ms."""
    token_mj: Positive | None = None
    """Energy of a full-depth token beyond what the device uses at rest, mJ."""
    power_source: Text | None = None
    """The sensor that told the power."""
    stages: dict[str, dict[str, Positive]] = {}
    """Stage → positions in one call → time of that call, ms."""


class DeviceProfile(_Table):
    """What is known about one device."""

    name: Text
    title: Text
    tag: Literal["published", "generic", "measured"]
    """Where the figures are from. Published ones were not measured by this project; generic ones fit many devices."""
    source: Text
    match: Matching = Matching()
    soc: Text | None = None
    jetpack: Text | None = None
    ram_gb: tuple[Count, ...] = ()
    """All sizes of memory that the device comes in, GB. On a Jetson, CPU and GPU share it."""
    memory_bandwidth_gb_s: Positive | None = None
    """GB/s. Published: the peak at the highest memory clock, which a power mode may cap. Measured: what a program
    got."""
    power_modes: tuple[PowerMode, ...] = ()
    super_power_modes: tuple[PowerMode, ...] = ()
    """Modes that the "Super" firmware has instead, if known."""
    clocks: Clocks | None = None
    cpu: Cpu | None = None
    gpu: Gpu | None = None
    rails: Rails | None = None
    limits: RatedLimits = RatedLimits()
    runtime: Defaults | None = None
    power_model: ModelledPower | None = None
    measured: Measured | None = None
