"""What a machine says of itself, by which its device profile is found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """What a machine says of itself; empty or ``None`` where it says nothing."""

    compatible: str = ""
    """The device tree's ``compatible``: ids of module and chip, with any separators."""
    model: str = ""
    """The device tree's ``model``: the board's name."""
    dmi: str = ""
    """Vendor, product and version of a PC."""
    cpu: str = ""
    """Name of the processor."""
    nvml: str = ""
    """Name of the NVIDIA GPU."""
    portable: bool | None = None
    """Whether it is a laptop, by the kind of its chassis."""

    @property
    def jetson(self) -> bool:
        """Whether this is an NVIDIA Jetson."""
        return "nvidia,tegra" in self.compatible
