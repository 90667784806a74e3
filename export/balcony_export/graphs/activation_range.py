"""fp16 holds numbers up to 65,504. Some models' hidden states are larger: their fp16 form computes NaN from then on.

Whether that happens is measured, on a text and with the very graphs that were written. Overflow inside a layer shows as
infinity or NaN in what the layer gives.
"""

from __future__ import annotations

import numpy as np

from balcony_edge.bundle.folder import Bundle
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import BundleError, ModelError, PromptError, ProviderError
from balcony_edge.text.codec import TextCodec
from balcony_export.graphs.cache_scales import MARGIN, PAGE

# The largest states stand at the first tokens of a text.
POSITIONS = 256
LARGEST = float(np.finfo(np.float16).max)


def check_range(bundle: Bundle) -> None:
    """Raise ModelError if a bundle with fp16 activations overflows on a page of text, or comes within MARGIN of it.

    Where this machine cannot run the bundle, nothing is checked; then the device says so at the first such token.
    """
    try:
        ids = TextCodec(bundle).encode(PAGE)[: min(POSITIONS, bundle.manifest.architecture.context)]
        ladder = Ladder(bundle, Runtime.start("auto"), len(ids))
        ladder.append(ids)
        stages = [*ladder.trunk, *(ladder.advance(split, len(ids)) for split in ladder.exits)]
        ladder.advance(ladder.full, len(ids))
        logits = ladder.logits_view(ladder.full, len(ids) - 1, len(ids))
    except (BundleError, ProviderError, PromptError):
        return
    states = [stage.outputs.first(len(ids)).astype(np.float32) for stage in stages]
    largest = max(float(np.abs(values).max()) for values in [*states, logits])
    # NaN is no number that is small enough.
    if not largest * MARGIN < LARGEST:
        found = f"reach {largest:,.0f}" if np.isfinite(largest) else "overflow"
        raise ModelError(
            f"this model's hidden states {found} on a page of text; these formats compute in fp16 on CUDA, which holds "
            f"{LARGEST:,.0f}",
            "export with --precision bf16, or for the CPU, which computes in fp32",
        )
