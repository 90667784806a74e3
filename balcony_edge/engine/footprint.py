"""How much memory a bundle takes, known before it is loaded: an estimate to print, a refusal instead of a kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from balcony_edge.bundle.manifest import Manifest
from balcony_edge.errors import BundleError, PromptError

ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
# Python, ONNX Runtime and its arenas, measured on x86-64 with the smallest bundles.
RUNTIME_BYTES = 80 << 20
# Left to the system and to others.
RESERVE_BYTES = 128 << 20


@dataclass(frozen=True)
class Footprint:
    """Bytes: ``weights`` of all graphs; ``position``: caches and hidden states of all stages for one position."""

    weights: int
    position: int

    @classmethod
    def of(cls, manifest: Manifest) -> Footprint:
        """From the manifest alone."""
        arch, formats = manifest.architecture, manifest.formats
        weights = sum(entry.bytes for entry in manifest.files.values())
        cache = 2 * arch.kv_heads * arch.head_dim * ELEMENT_BYTES[formats.cache]
        hidden = arch.hidden * ELEMENT_BYTES[formats.activations]
        stages = [graph for graph in manifest.graphs if graph.kind != "head"]
        return cls(weights, sum(graph.caches * cache + hidden for graph in stages) + 8)

    def total(self, positions: int) -> int:
        """Bytes of a process with ``positions`` in its caches."""
        return RUNTIME_BYTES + self.weights + self.position * positions

    def line(self, context: int) -> str:
        """For people, before anything is loaded."""
        return (
            f"memory: about {size(self.total(0))} and {size(self.position * context)} more when the context of "
            f"{context} tokens is full"
        )

    def check_weights(self, name: str, available: int | None) -> None:
        """Raises BundleError where the weights cannot fit into ``available`` bytes (None: unknown, no check)."""
        if available is not None and self.total(0) + RESERVE_BYTES > available:
            raise BundleError(
                f"{name} takes about {size(self.total(0))} of memory; {size(available)} are free",
                "close other programs, or export with a lower precision, as --precision int4",
            )

    def check_positions(self, more: int, available: int | None) -> None:
        """Raises PromptError where caches for ``more`` positions cannot fit into ``available`` bytes."""
        if available is not None and more > 0 and self.position * more + RESERVE_BYTES > available:
            fits = max(0, (available - RESERVE_BYTES) // self.position)
            raise PromptError(
                f"{more} more tokens take {size(self.position * more)} of memory; {size(available)} are free",
                f"ask for fewer tokens (about {fits} fit): a shorter prompt, -n, or --max-context",
            )


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def available_bytes(read: Callable[[str], str] | None = None) -> int | None:
    """Memory that this process can still take: the machine's, or what its control group leaves; None if unknown."""
    import psutil

    read = read or (lambda path: Path(path).read_text())
    try:
        free = int(psutil.virtual_memory().available)
    except (OSError, RuntimeError, AttributeError):
        return None
    folder = "/sys/fs/cgroup"
    try:
        limit, used = read(f"{folder}/memory.max").strip(), int(read(f"{folder}/memory.current"))
        return min(free, int(limit) - used) if limit != "max" else free
    except (OSError, ValueError):
        return free
