"""Which numbers each ONNX Runtime provider computes with: one row per provider and precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from balcony_edge.bundle.manifest import Activations, Cache, Exactness, Formats, Precision, Provider
from balcony_edge.errors import ModelError
from balcony_export.graphs.weights import BITS

# What a provider's activations are for a precision of the base; what is not listed, it cannot run.
# CPU kernels for 16 bits either miss or convert at each call: there fp16 is a way of storing, widened at load.
ACTIVATION_TYPES: dict[tuple[Provider, Precision], Activations] = {
    ("cpu", "fp32"): "fp32",
    ("cpu", "fp16"): "fp32",
    ("cpu", "int8"): "fp32",
    ("cpu", "int4"): "fp32",
    ("cuda", "fp32"): "fp32",
    ("cuda", "fp16"): "fp16",
    ("cuda", "bf16"): "bf16",
    ("cuda", "int8"): "fp16",
    ("cuda", "int4"): "fp16",
}

# The largest blocks whose CPU kernels give a position the same bits alone and among others (ONNX Runtime 1.32).
# Larger ones are faster: 8 bits lose nothing to speak of in blocks of 64; 4 bits are fastest in blocks of 128, without
# lossless rounds.
EXACT_BLOCKS: dict[Precision, int] = {"int8": 64, "int4": 32}

# Caches other than the activations' own type, and the first ONNX Runtime whose attention takes them.
CACHES: dict[tuple[Provider, Cache], tuple[int, int]] = {
    ("cpu", "fp16"): (1, 28),
    ("cpu", "int8"): (1, 28),
    ("cuda", "int8"): (1, 28),
}


@dataclass(frozen=True)
class ExportOptions:
    """What the user asked for; ``None`` follows the base's precision or the provider's habit.

    ``block_size``: weights that share a scale, at the most (int8, int4).
    """

    provider: Provider = "cpu"
    precision: Precision = "fp32"
    exits: Precision | None = None
    head: Precision | None = None
    cache: Cache | None = None
    block_size: int | None = None
    symmetric: bool = True
    exactness: Exactness | None = None

    def formats(self) -> Formats:
        """The formats of the bundle. Raises ModelError for what the provider cannot run, naming what it can."""
        chosen = {"base": self.precision, "exits": self.exits or self.precision, "head": self.head or self.precision}
        runnable = [precision for provider, precision in ACTIVATION_TYPES if provider == self.provider]
        for part, precision in chosen.items():
            if precision not in runnable:
                raise ModelError(
                    f"the {self.provider} provider cannot run {precision} weights (of the {part})",
                    f"choose one of {', '.join(runnable)}" + ", or --provider cuda" * (self.provider == "cpu"),
                )
        block_size = self.block_size or self._usual_block_size(chosen.values())
        if block_size not in (16, 32, 64, 128, 256):
            raise ModelError(f"ONNX Runtime knows no blocks of {block_size}", "choose 32, 64, 128 or 256")
        activations = ACTIVATION_TYPES[self.provider, self.precision]
        for part, precision in chosen.items():
            if self.provider != "cpu" and precision not in BITS and precision != activations:
                raise ModelError(
                    f"{precision} weights (of the {part}) do not go with {activations} activations",
                    f"use {activations}, int8 or int4 for the {part}",
                )
        cache = self.cache or activations
        if cache != activations and (self.provider, cache) not in CACHES:
            raise ModelError(
                f"the {self.provider} provider cannot keep a KV cache of {cache} for {activations} activations",
                f"choose one of {', '.join([activations, *(c for p, c in CACHES if p == self.provider)])}",
            )
        return Formats(
            provider=self.provider,
            activations=activations,
            cache=cache,
            block_size=block_size,
            symmetric=self.symmetric,
            **chosen,
        )

    def _usual_block_size(self, chosen: Iterable[Precision]) -> int:
        if "int4" not in chosen:
            return EXACT_BLOCKS["int8"]
        return EXACT_BLOCKS["int4"] if self.exactness == "bit" else 128

    def attention(self) -> Exactness:
        """How attention keeps its bits: as in lossless decoding wherever all other kernels do."""
        formats = self.formats()
        quantised = {formats.base, formats.exits, formats.head} & EXACT_BLOCKS.keys()
        exact = self.provider == "cpu" and all(formats.block_size <= EXACT_BLOCKS[one] for one in quantised)
        return self.exactness or ("bit" if exact else "float")

    def minimum_onnxruntime(self) -> tuple[int, int]:
        """The first version that runs the bundle."""
        formats = self.formats()
        return CACHES.get((self.provider, formats.cache), (1, 23)) if formats.cache != formats.activations else (1, 23)
