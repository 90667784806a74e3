"""How a machine tells who it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """What was read of a machine; empty or ``None`` where it does not say."""

    compatible: str = ""
    """The device tree's ``compatible``: ids of module and chip, with any separators."""
    model: str = ""
    dmi: str = ""
    """Vendor, product and version of a PC."""
    cpu: str = ""
    nvml: str = ""
    """Name of the NVIDIA GPU."""
    portable: bool | None = None
    """Whether it is a laptop, by the kind of its chassis or by having a battery."""

    @property
    def jetson(self) -> bool:
        """Whether this is NVIDIA's own board."""
        return "nvidia,tegra" in self.compatible
