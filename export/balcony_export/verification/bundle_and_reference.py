"""A bundle and the model that it was exported from, both loaded, to be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from balcony_edge.bundle.folder import Bundle
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.engine.stage import Stage
from balcony_edge.errors import VerifyError
from balcony_export.exits.store import base_digest, load
from balcony_export.verification.measures import Values
from balcony_export.verification.reference import ExitSource, Reference, check_memory


@dataclass(frozen=True)
class BundleAndReference:
    """A loaded bundle, and its model as the fp32 reference."""

    bundle: Bundle
    ladder: Ladder
    reference: Reference

    def put(self, ids: Sequence[int]) -> None:
        """Make ``ids`` the bundle's sequence. All of its stages start from the first position again."""
        self.ladder.rewind(0)
        self.ladder.append(ids)

    def outputs(self, stage: Stage) -> Values:
        """The output of a stage for the whole sequence of T tokens, fp32 [T, hidden]."""
        return as_fp32(stage.outputs.host(), self.bundle.manifest.formats.activations)[0, : self.ladder.length]


def open_both(
    bundle: Bundle, folder: Path, exits: Path | None, provider: str, context: int | None = None
) -> BundleAndReference:
    """Load ``bundle`` and the model in ``folder``.

    ``exits``: the folder of the bundle's trained exits; without it, only untrained exits can be compared. ``provider``
    "auto": the one that the bundle was built for. ``context``: the most positions of the bundle. Raises VerifyError if
    the model is not the bundle's, MemoryShortError before loading what does not fit into memory, and ModelError,
    ExitsError or ProviderError for what cannot be loaded.
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
        # Exits that were never measured are untrained: copies of the last layer, from --exits init.
        source = "init"
    check_memory(bundle, folder)
    wanted = manifest.formats.provider if provider == "auto" else provider
    ladder = Ladder(bundle, Runtime.start(wanted), context)
    return BundleAndReference(bundle, ladder, Reference(folder, manifest.splits, source if manifest.exits else None))


def as_fp32(values: Any, kind: str) -> Values:
    """A buffer of type ``kind`` as fp32. A bf16 buffer has the form of 16-bit integers, as numpy has no bfloat16."""
    wide = values.view(ml_dtypes.bfloat16) if kind == "bf16" else values
    return np.asarray(wide, np.float32)
