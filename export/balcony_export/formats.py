"""Which numbers each ONNX Runtime provider computes with: one row per provider and precision."""

from __future__ import annotations

from dataclasses import dataclass

from balcony_edge.bundle import Activations, Cache, Exactness, Formats, Precision, Provider
from balcony_edge.errors import ModelError
from balcony_export.weights import BITS

# What a provider's activations are for a precision of the base; what is not listed, it cannot run.
# CPU kernels for 16 bits either miss or convert at each call: there fp16 is a way of storing, widened at load.
ACTIVATIONS: dict[tuple[Provider, Precision], Activations] = {
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

# Weights that share a scale, at the most. The larger, the fewer bytes and the faster; 8 bits lose nothing by it, 4 bits
# of 64 have the bits and, their scales being searched for, the error of plain rounding in blocks of 32.
BLOCK_SIZES: dict[Precision, int] = {"int8": 128, "int4": 64}

# Caches other than the activations' own type, and the first ONNX Runtime whose attention takes them.
CACHES: dict[tuple[Provider, Cache], tuple[int, int]] = {
    ("cpu", "fp16"): (1, 28),
    ("cpu", "int8"): (1, 28),
    ("cuda", "int8"): (1, 28),
}


@dataclass(frozen=True)
class Choice:
    """What the user asked for; ``None`` follows the base's precision or the provider's habit."""

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
        runnable = [precision for provider, precision in ACTIVATIONS if provider == self.provider]
        for part, precision in chosen.items():
            if precision not in runnable:
                raise ModelError(
                    f"the {self.provider} provider cannot run {precision} weights (of the {part})",
                    f"choose one of {', '.join(runnable)}" + ", or --provider cuda" * (self.provider == "cpu"),
                )
        block_size = self.block_size or (BLOCK_SIZES["int4"] if "int4" in chosen.values() else BLOCK_SIZES["int8"])
        if block_size not in (16, 32, 64, 128, 256):
            raise ModelError(f"block size {block_size} is not one that ONNX Runtime knows", "choose 32, 64, 128 or 256")
        activations = ACTIVATIONS[self.provider, self.precision]
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

    def attention(self) -> Exactness:
        """How attention keeps its bits: on the CPU as in lossless decoding; elsewhere the padding buys nothing."""
        return self.exactness or ("bit" if self.provider == "cpu" else "float")

    def minimum_onnxruntime(self) -> tuple[int, int]:
        """The first version that runs the bundle."""
        formats = self.formats()
        return CACHES.get((self.provider, formats.cache), (1, 23)) if formats.cache != formats.activations else (1, 23)
