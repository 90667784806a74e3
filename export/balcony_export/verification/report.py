"""The result of verifying a bundle: a row for each stage, as a table, in one line, or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from balcony_edge.bundle.manifest import Formats
from balcony_edge.system.terminal import table
from balcony_export.verification.measures import number


@dataclass(frozen=True)
class StageRow:
    """The comparison of one stage."""

    stage: str
    compares: str
    """What was compared, in words."""
    passed: bool
    absolute: float | None = None
    """See Gap."""
    scaled: float | None = None
    limit: float | None = None
    """What ``scaled`` may be at most; None: the stage is quantised and only has to be finite."""
    kl_nats: float | None = None
    """KL(model ‖ bundle), as a mean over positions."""
    note: str = ""
    """What else was found, in words."""


@dataclass(frozen=True)
class Verification:
    """What was compared, and the results."""

    model: str
    formats: Formats
    prompts: int
    """How many sequences were compared."""
    positions: int
    """How many positions these have together."""
    greedy_equal: int
    """How many greedy tokens were the model's own, of ``greedy_total``."""
    greedy_total: int
    rows: list[StageRow]
    """In the order in which a fault spreads: config, text, trunk, exits, head, full depth, greedy tokens."""

    @property
    def passed(self) -> bool:
        """Whether every row passed."""
        return all(row.passed for row in self.rows)

    @property
    def first_failure(self) -> StageRow | None:
        """The first row that failed, which is where the fault is; None if all passed."""
        return next((row for row in self.rows if not row.passed), None)

    def to_json(self) -> str:
        """The report as a JSON object; NaN and infinity become null."""
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
        """The report as an aligned table."""
        lines = [["stage", "compares", "max |Δ|", "scaled", "limit", "KL nats", "", ""]]
        for row in self.rows:
            figures = [figure(value) for value in (row.absolute, row.scaled, row.limit, row.kl_nats)]
            lines.append([row.stage, row.compares, *figures, "PASS" if row.passed else "FAIL", row.note])
        return table(lines, left=(0, 1, 6, 7))

    def line(self) -> str:
        """The verdict and the figures of the full depth in one line."""
        full = next(row for row in self.rows if row.stage == "full")
        failure = self.first_failure
        verdict = "verified" if failure is None else f"NOT verified, first at {failure.stage}"
        return (
            f"{verdict} against {self.model} in fp32 on {self.positions} positions: "
            f"logits max |Δ| {figure(full.absolute)}, KL {figure(full.kl_nats)} nats/token, "
            f"greedy {self.greedy_equal} of {self.greedy_total}"
        )


def next_step(row: StageRow, otherwise: str) -> str:
    """What to do about a row that failed; ``otherwise``: for a stage that does not compute what it should."""
    if row.stage != "text":
        return otherwise
    return (
        "save the tokenizer as transformers reads it, and export again: "
        "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
    )


def explain(row: StageRow) -> str:
    """A sentence on why a row failed."""
    if row.limit is not None:
        why = f"{row.compares} differ by {figure(row.absolute)} (scaled {figure(row.scaled)}, limit {row.limit:g})"
    else:
        why = row.note or f"{row.compares} not finite"
    return f"{row.stage} is the first stage that fails: {why}"


def figure(value: float | None) -> str:
    """The value with four digits, or in scientific notation below 0.001; empty for None."""
    return "" if value is None else f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"
