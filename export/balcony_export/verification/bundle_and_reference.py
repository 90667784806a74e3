"""A bundle beside the model that it came from, both loaded: what verifying and measuring start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from balcony_edge.bundle.folder import Bundle
from balcony_edge.decoding.text import TextCodec
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.engine.stage import Stage
from balcony_edge.errors import VerifyError
from balcony_export.exits.store import base_digest, load
from balcony_export.verification.measures import Values
from balcony_export.verification.reference import ExitSource, Reference, check_memory


@dataclass(frozen=True)
class BundleAndReference:
    """A loaded bundle and its fp32 reference."""

    bundle: Bundle
    ladder: Ladder
    reference: Reference

    def put(self, ids: Sequence[int]) -> None:
        """Make ``ids`` the ladder's whole sequence; its stages start afresh."""
        self.ladder.rewind(0)
        self.ladder.append(ids)

    def outputs(self, stage: Stage) -> Values:
        """What a stage gave for the whole sequence, as fp32 [T, hidden]."""
        return as_fp32(stage.outputs.host(), self.bundle.manifest.formats.activations)[0, : self.ladder.length]


def open_both(
    bundle: Bundle, folder: Path, exits: Path | None, provider: str, context: int | None = None
) -> BundleAndReference:
    """Load both sides; ``provider`` "auto" is the one that the bundle was built for, ``context`` limits the ladder.

    ``exits``: the folder that the bundle's trained exits came from; without it only untrained ones are compared.
    Raises VerifyError for another model than the bundle's, MemoryShortError before anything is loaded that does not
    fit, ModelError, ExitsError or ProviderError.
    """
    manifest = bundle.manifest
    if base_digest(folder) != manifest.base.sha256:
        raise VerifyError(
            f"{bundle.path} was exported from {manifest.base.model}; {folder} holds other weights or settings",
            f"give the folder or revision of {manifest.base.model} that it was exported from",
        )
    source: ExitSource = None
    if exits is not None:
        source = load(exits)
        source.check_base(folder)
        missing = sorted({graph.stop for graph in manifest.exits} - set(source.splits))
        if missing:
            raise VerifyError(
                f"{exits} has no exit at layer {missing[0]}, which {bundle.path} has",
                "give the folder that the bundle was exported with",
            )
    elif manifest.exits and not manifest.quality:
        # Nobody measured them: copies of the last layer, made by --exits init.
        source = "init"
    check_memory(bundle, folder)
    wanted = manifest.formats.provider if provider == "auto" else provider
    ladder = Ladder(bundle, Runtime.start(wanted), context)
    return BundleAndReference(bundle, ladder, Reference(folder, manifest.splits, source if manifest.exits else None))


def as_fp32(values: Any, kind: str) -> Values:
    """Values of a buffer as fp32; numpy has no bfloat16, whose bits lie in 16-bit integers."""
    wide = values.view(ml_dtypes.bfloat16) if kind == "bf16" else values
    return np.asarray(wide, np.float32)


def encode_prompts(bundle: Bundle, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts, by the bundle's own tokenizer. Raises PromptError for one that cannot be encoded."""
    codec = TextCodec(bundle)
    return [codec.encode(text) for text in texts]
