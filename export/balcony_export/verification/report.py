"""What verifying found: one row a stage, as a table, as one line and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from balcony_edge.bundle.manifest import Formats
from balcony_edge.tables import table
from balcony_export.verification.measures import number


@dataclass(frozen=True)
class StageRow:
    """One comparison. ``absolute`` and ``scaled`` as in Gap; ``kl_nats`` is the mean KL(model ‖ bundle) a token.

    ``limit`` bounds ``scaled``; None: the stage was asked to lose bits, and has only to be finite. ``note`` says what
    else was found.
    """

    stage: str
    compares: str
    passed: bool
    absolute: float | None = None
    scaled: float | None = None
    limit: float | None = None
    kl_nats: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Verification:
    """What was compared and how it came out. ``positions`` were compared over ``prompts`` sequences."""

    model: str
    formats: Formats
    prompts: int
    positions: int
    greedy_equal: int
    greedy_total: int
    rows: list[StageRow]

    @property
    def passed(self) -> bool:
        """Whether every row passed."""
        return all(row.passed for row in self.rows)

    @property
    def first_failure(self) -> StageRow | None:
        """The first row, from the embedding up, that failed."""
        return next((row for row in self.rows if not row.passed), None)

    def to_json(self) -> str:
        """All of it as a JSON object; a difference that is not finite is null."""
        failure = self.first_failure
        content: dict[str, Any] = {
            "model": self.model,
            "formats": self.formats.model_dump(),
            "passed": self.passed,
            "first_failure": None if failure is None else failure.stage,
            "prompts": self.prompts,
            "positions": self.positions,
            "greedy_equal": self.greedy_equal,
            "greedy_total": self.greedy_total,
            "rows": [
                asdict(row) | {key: number(getattr(row, key)) for key in ("absolute", "scaled", "kl_nats")}
                for row in self.rows
            ],
        }
        return json.dumps(content, indent=1, allow_nan=False)

    def table(self) -> str:
        """An aligned table, one line a row."""
        lines = [["stage", "compares", "max |Δ|", "scaled", "limit", "KL nats", "", ""]]
        for row in self.rows:
            figures = [figure(value) for value in (row.absolute, row.scaled, row.limit, row.kl_nats)]
            lines.append([row.stage, row.compares, *figures, "PASS" if row.passed else "FAIL", row.note])
        return table(lines, left=(0, 1, 6, 7))

    def line(self) -> str:
        """One line: the verdict and the figures of the full depth."""
        full = next(row for row in self.rows if row.stage == "full")
        failure = self.first_failure
        verdict = "verified" if failure is None else f"NOT verified, first at {failure.stage}"
        return (
            f"{verdict} against {self.model} in fp32 on {self.positions} positions: "
            f"logits max |Δ| {figure(full.absolute)}, KL {figure(full.kl_nats)} nats/token, "
            f"greedy {self.greedy_equal} of {self.greedy_total}"
        )


def explain(row: StageRow) -> str:
    """Why a row failed, in words."""
    if row.limit is not None:
        why = f"{row.compares} differ by {figure(row.absolute)} (scaled {figure(row.scaled)}, limit {row.limit:g})"
    else:
        why = row.note or f"{row.compares} not finite"
    return f"{row.stage} is the first stage that fails: {why}"


def figure(value: float | None) -> str:
    """Four digits; scientific where a fixed point would show zeros; empty for None."""
    return "" if value is None else f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"
