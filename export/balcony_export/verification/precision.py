"""What a bundle's precision and its exits cost on a text: KL, agreement and perplexity against the model in fp32."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import Formats
from balcony_edge.errors import DataError
from balcony_edge.system.terminal import table
from balcony_edge.text.codec import TextCodec
from balcony_export.data import corpus
from balcony_export.progress import Progress
from balcony_export.verification.bundle_and_reference import BundleAndReference, open_both
from balcony_export.verification.measures import CHUNK, Doubles, Mean, divergence, log_probabilities, number
from balcony_export.verification.report import figure

# Tokens of a sequence. The reference's attention holds heads · window² scores at once.
WINDOW = 1024


@dataclass(frozen=True)
class PrecisionRow:
    """The figures of the reference, or of one depth of the bundle, as means over positions."""

    name: str
    perplexity: float
    """e to the mean negative log-likelihood, in nats, of the text's next tokens."""
    kl_nats: float | None = None
    """KL(reference ‖ this); None for the reference."""
    agreement: float | None = None
    """How often its likeliest token is the reference's; None for the reference."""


@dataclass(frozen=True)
class PrecisionReport:
    """All figures, and what they were measured on."""

    model: str
    formats: Formats
    positions: int
    """How many tokens of text were measured on."""
    window: int
    """The most tokens of a sequence."""
    rows: list[PrecisionRow]
    """The fp32 model first, then the bundle's full depth, then its exits from the deepest to the shallowest."""

    def to_json(self) -> str:
        """The report as a JSON object; NaN and infinity become null."""
        rows = [
            {
                "name": row.name,
                "kl_nats": number(row.kl_nats),
                "agreement": number(row.agreement),
                "perplexity": number(row.perplexity),
            }
            for row in self.rows
        ]
        content = {
            "model": self.model,
            "formats": self.formats.model_dump(),
            "positions": self.positions,
            "window": self.window,
            "rows": rows,
        }
        return json.dumps(content, indent=1, allow_nan=False)

    def table(self) -> str:
        """The report as an aligned table."""
        lines = [["", "KL nats", "agreement", "perplexity"]]
        for row in self.rows:
            agreement = "" if row.agreement is None else f"{row.agreement:.4f}"
            lines.append([row.name, figure(row.kl_nats), agreement, figure(row.perplexity)])
        return table(lines, left=(0,))


@dataclass
class _Running:
    """The running means of one row."""

    kl: Mean = field(default_factory=Mean)
    agrees: Mean = field(default_factory=Mean)
    next_token_loss: Mean = field(default_factory=Mean)

    def row(self, name: str, reference: bool = False) -> PrecisionRow:
        mean = self.next_token_loss.value
        # exp overflows at 709 nats; no useful model has such a loss.
        perplexity = math.exp(mean) if mean < 700 else math.inf if mean >= 700 else math.nan
        return (
            PrecisionRow(name, perplexity)
            if reference
            else PrecisionRow(name, perplexity, self.kl.value, self.agrees.value)
        )


def measure_precision(
    bundle: Bundle, folder: Path, paths: Sequence[Path], window: int = WINDOW, provider: str = "auto"
) -> PrecisionReport:
    """Compare every depth of ``bundle`` with the fp32 model in ``folder`` on the texts in ``paths``.

    Documents (see data/corpus.py) are cut into sequences of at most ``window`` tokens, or of the bundle's context if
    that is shorter. Each begins with the start token, if the tokenizer adds one. Hidden states are in memory for one
    sequence, logits for a few positions. Raises DataError for a text without a token to predict, and what ``open_both``
    raises.
    """
    window = min(window, bundle.manifest.architecture.context)
    pieces = list(_windows(bundle, paths, window))
    if not pieces:
        raise DataError("the text has fewer than two tokens, or the window is of one", "give a longer --text")
    both = open_both(bundle, folder, None, provider, window)
    depths = [both.ladder.full, *reversed(list(both.ladder.exits))]
    model, rows = _Running(), {depth: _Running() for depth in depths}
    with Progress("text", len(pieces)) as progress:
        for ids in pieces:
            _add(both, ids, model, rows)
            progress.advance()
    names = {depth: "bundle, full" if depth == both.ladder.full else f"bundle, exit {depth}" for depth in depths}
    return PrecisionReport(
        model=bundle.manifest.base.model,
        formats=bundle.manifest.formats,
        positions=sum(map(len, pieces)),
        window=window,
        rows=[model.row("model, fp32", reference=True), *(rows[depth].row(names[depth]) for depth in depths)],
    )


def _windows(bundle: Bundle, paths: Sequence[Path], window: int) -> Iterator[list[int]]:
    """The text as sequences of 2 to ``window`` ids."""
    codec = TextCodec(bundle)
    start = codec.start
    size = window - len(start)
    for document in corpus.read_documents(paths) if size > 0 else ():
        ids = codec.check(codec.encode_bare(document))
        for first in range(0, len(ids), size):
            piece = [*start, *ids[first : first + size]]
            if len(piece) > 1:
                yield piece


def _add(both: BundleAndReference, ids: list[int], model: _Running, rows: dict[int, _Running]) -> None:
    """Add one sequence, a few positions at a time: the logits of all positions could take gigabytes."""
    final = both.reference.states(ids).final
    both.put(ids)
    for start in range(0, len(ids), CHUNK):
        stop = min(start + CHUNK, len(ids))
        # The last position of the sequence has no next token in the text.
        targets = np.asarray(ids[start + 1 : stop + 1], np.int64)
        log_p = log_probabilities(both.reference.logits(final[start:stop]))
        _add_loss(model, log_p, targets)
        for depth, row in rows.items():
            log_q = log_probabilities(both.ladder.logits_view(depth, start, stop))
            _add_loss(row, log_q, targets)
            row.kl.add(divergence(log_p, log_q))
            row.agrees.add(log_p.argmax(axis=-1) == log_q.argmax(axis=-1))


def _add_loss(row: _Running, log_probability: Doubles, targets: np.ndarray) -> None:
    row.next_token_loss.add(-log_probability[np.arange(len(targets)), targets])
