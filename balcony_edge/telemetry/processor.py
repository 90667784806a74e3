"""The name of a processor, from ``/proc/cpuinfo``: x86 kernels write it there, Arm's write numbers instead."""

from __future__ import annotations

from collections.abc import Iterable

# (CPU implementer, CPU part): the cores of boards that run language models, as lscpu calls them.
CORES = {
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD09): "Cortex-A73",
    (0x41, 0xD0A): "Cortex-A75",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD0D): "Cortex-A77",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD42): "Cortex-A78AE",
    (0x41, 0xD46): "Cortex-A510",
    (0x41, 0xD47): "Cortex-A710",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD80): "Cortex-A520",
    (0x41, 0xD81): "Cortex-A720",
    (0x41, 0xD83): "Neoverse-V3AE",
    (0x4E, 0x004): "Carmel",
}


def processor_name(cpuinfo: Iterable[str]) -> str:
    """The processor's name, from the lines of ``/proc/cpuinfo``; empty where they do not tell.

    Of an Arm processor the kinds of its cores: ``Cortex-A55 + Cortex-A76``, or their numbers where they have none here.
    """
    kinds: list[str] = []
    implementer = 0
    for line in cpuinfo:
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name" and value:
            return value
        try:
            if key == "CPU implementer":
                implementer = int(value, 16)
            elif key == "CPU part":
                part = int(value, 16)
                kinds.append(CORES.get((implementer, part), f"Arm {implementer:#04x}:{part:#05x}"))
        except ValueError:
            continue
    return " + ".join(dict.fromkeys(kinds))
