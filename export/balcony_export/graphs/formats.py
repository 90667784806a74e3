"""The number formats of a bundle: what a user may ask for, and what each ONNX Runtime provider can run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from balcony_edge.bundle.manifest import Activations, Cache, Exactness, Formats, Precision, Provider
from balcony_edge.errors import ModelError
from balcony_export.graphs.weights import BITS

# The type of the activations for each provider and precision of the base. What is not listed cannot run.
# On the CPU, kernels for fp16 are missing or convert at every call. There fp16 is only how weights are stored: they are
# widened to fp32 at load.
ACTIVATION_TYPES: dict[tuple[Provider, Precision], Activations] = {
    ("cpu", "fp32"): "fp32",
    ("cpu", "fp16"): "fp32",
    ("cpu", "int8"): "fp32",
    ("cpu", "int4"): "fp32",
    ("cpu", "keep"): "fp32",
    ("cuda", "fp16"): "fp16",
    ("cuda", "bf16"): "bf16",
    ("cuda", "int8"): "fp16",
    ("cuda", "int4"): "fp16",
    ("cuda", "keep"): "fp16",
}

# The largest blocks for which the CPU kernels are bit-exact: a position's result is the same to the bit, whether it is
# computed alone or among others (ONNX Runtime 1.32). Lossless speculation needs that. Larger blocks are faster: int8
# loses next to nothing with blocks of 64, but int4 is fastest with blocks of 128, which are not bit-exact.
EXACT_BLOCKS: dict[Precision, int] = {"int8": 64, "int4": 32}

# How many weights may share a scale.
BLOCK_SIZES = (16, 32, 64, 128, 256)

# KV caches of another type than the activations, with the first version of ONNX Runtime that can run them.
CACHES: dict[tuple[Provider, Cache], tuple[int, int]] = {
    ("cpu", "fp16"): (1, 28),
    ("cpu", "int8"): (1, 28),
    ("cuda", "int8"): (1, 28),
}


@dataclass(frozen=True)
class ExportOptions:
    """What the user asks for. None stands for the default, which depends on the other options."""

    provider: Provider = "cpu"
    precision: Precision = "fp32"
    """Of the base's weights. "keep": those of the checkpoint as they are."""
    exits: Precision | None = None
    """Of the exits' weights; None: the base's, or int8 beside a base that is kept."""
    head: Precision | None = None
    """Of LM head and embedding; None: the base's."""
    cache: Cache | None = None
    """Of keys and values; None: that of the activations."""
    block_size: int | None = None
    """The most weights that share a scale (int8, int4); None: see ``_usual_block_size``."""
    symmetric: bool = True
    """Without zero points."""
    exactness: Exactness | None = None
    """None: "bit" wherever the provider's kernels allow it."""

    def formats(self) -> Formats:
        """The formats of the bundle. Raises ModelError for what the provider cannot run, and names what it can."""
        exits: Precision = self.exits or ("int8" if self.precision == "keep" else self.precision)
        if exits == "keep":
            raise ModelError("trained exits are floats: nothing of them can be kept", "use --exit-precision int8")
        chosen = {"base": self.precision, "exits": exits, "head": self.head or self.precision}
        runnable = [precision for provider, precision in ACTIVATION_TYPES if provider == self.provider]
        for part, precision in chosen.items():
            if precision not in runnable:
                raise ModelError(
                    f"the {self.provider} provider cannot run {precision} weights (of the {part})",
                    f"choose one of {', '.join(runnable)}" + ", or --provider cuda" * (self.provider == "cpu"),
                )
        block_size = self.block_size or self._usual_block_size(chosen.values())
        if block_size not in BLOCK_SIZES:
            raise ModelError(f"ONNX Runtime knows no blocks of {block_size}", "choose 32, 64, 128 or 256")
        activations = ACTIVATION_TYPES[self.provider, self.precision]
        for part, precision in chosen.items():
            if self.provider != "cpu" and precision not in (*BITS, "keep", activations):
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
            base=self.precision,
            exits=exits,
            head=self.head or self.precision,
        )

    def _usual_block_size(self, chosen: Iterable[Precision]) -> int:
        if "int4" not in chosen:
            return EXACT_BLOCKS["int8"]
        return EXACT_BLOCKS["int4"] if self.exactness == "bit" else 128

    def attention(self, kept_exact: bool = True) -> Exactness:
        """The exactness of attention: "bit" if all other kernels are bit-exact too, unless the user chose.

        ``kept_exact``: whether those of kept weights are.
        """
        formats = self.formats()
        quantised = {formats.base, formats.exits, formats.head} & EXACT_BLOCKS.keys()
        exact = (
            self.provider == "cpu" and kept_exact and all(formats.block_size <= EXACT_BLOCKS[one] for one in quantised)
        )
        return self.exactness or ("bit" if exact else "float")

    def minimum_onnxruntime(self) -> tuple[int, int]:
        """The first version of ONNX Runtime, (major, minor), that can run the bundle."""
        formats = self.formats()
        return CACHES.get((self.provider, formats.cache), (1, 23)) if formats.cache != formats.activations else (1, 23)
