"""How much memory a bundle needs, estimated from its manifest before anything is loaded.

The estimate is printed, and a bundle or reply that cannot fit is refused: otherwise the system would kill the process.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass

from balcony_edge.bundle.manifest import Manifest
from balcony_edge.errors import BundleError, PromptError
from balcony_edge.system import control_group

ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
# Python, ONNX Runtime and its arenas, measured on x86-64 with the smallest bundles.
RUNTIME_BYTES = 80 << 20
# Memory that is left to the system and to other programs.
RESERVE_BYTES = 128 << 20


@dataclass(frozen=True)
class Footprint:
    """Sizes in bytes: ``weights`` of all graphs, and ``position``, the caches and hidden states of one position."""

    weights: int
    position: int

    @classmethod
    def of(cls, manifest: Manifest) -> Footprint:
        """The footprint of a bundle, from its manifest alone."""
        arch, formats = manifest.architecture, manifest.formats
        weights = sum(entry.bytes for entry in manifest.files.values())
        cache = 2 * arch.kv_heads * arch.head_dim * ELEMENT_BYTES[formats.cache]
        hidden = arch.hidden * ELEMENT_BYTES[formats.activations]
        stages = [graph for graph in manifest.graphs if graph.kind != "head"]
        return cls(weights, sum(graph.caches * cache + hidden for graph in stages) + 8)

    def total(self, positions: int) -> int:
        """Bytes of a whole process with room for ``positions`` in its caches."""
        return RUNTIME_BYTES + self.weights + self.position * positions

    def line(self, context: int) -> str:
        """The estimate as one line for people, for a context of that many tokens."""
        return (
            f"memory: about {size(self.total(0))} and {size(self.position * context)} more when the context of "
            f"{context} tokens is full"
        )

    def check_weights(self, name: str, available: int | None) -> None:
        """Raise BundleError if the weights cannot fit into ``available`` bytes (None: unknown, no check).

        ``name``: how the message calls the bundle.
        """
        if available is not None and self.total(0) + RESERVE_BYTES > available:
            raise BundleError(
                f"{name} takes about {size(self.total(0))} of memory; {size(available)} are free",
                "close other programs, raise the limit (ulimit -v, the container's), or export with --precision int4",
            )

    def check_positions(self, more: int, available: int | None) -> None:
        """Raise PromptError if caches for ``more`` positions cannot fit into ``available`` bytes (None: no check)."""
        if available is not None and more > 0 and self.position * more + RESERVE_BYTES > available:
            fits = max(0, (available - RESERVE_BYTES) // self.position)
            raise PromptError(
                f"{more} more tokens take {size(self.position * more)} of memory; {size(available)} are free",
                f"ask for fewer tokens (about {fits} fit): a shorter prompt, -n, or --max-context",
            )


def size(count: int) -> str:
    """A number of bytes for people: "1.2 GB", "340 MB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def available_bytes(read: control_group.Read | None = None) -> int | None:
    """Bytes of memory that this process can still take; None if unknown.

    That is what the machine has free, or less where the process's control group (a container) or its own limit
    (ulimit -v) allows less. ``read``: path → text of a file; a test gives its own.
    """
    import psutil

    try:
        free = int(psutil.virtual_memory().available)
    except (OSError, RuntimeError, AttributeError):
        return None
    allowed = control_group.memory_left() if read is None else control_group.memory_left(read)
    return min(count for count in (free, allowed, _address_space_left()) if count is not None)


def _address_space_left() -> int | None:
    """Bytes of address space that ``ulimit -v`` still allows; None without such a limit."""
    import psutil

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    return max(0, limit - int(psutil.Process().memory_info().vms))
