"""Verify that a bundle computes what its model computes: stage by stage, on prompts, against transformers in fp32.

If all numbers of a stage are fp32, it must equal the reference within LIMIT (``scaled`` in Gap), and its greedy tokens
must be the reference's. A quantised stage must only be finite; how far it diverges is reported. Text must become the
same ids on both sides. See docs/verify.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from balcony_edge.bundle.folder import Bundle
from balcony_edge.errors import PromptError
from balcony_export.verification.bundle_and_reference import (
    BundleAndReference,
    open_both,
)
from balcony_export.verification.config_reading import compare_config
from balcony_export.verification.measures import (
    CHUNK,
    LIMIT,
    Gap,
    Mean,
    Values,
    divergence,
    is_exact,
    log_probabilities,
)
from balcony_export.verification.prompts import DEFAULT_PROMPTS, encode_prompts
from balcony_export.verification.reference import ReferenceStates
from balcony_export.verification.report import StageRow, Verification
from balcony_export.verification.text_ids import compare_texts

# Greedy tokens after each prompt.
DECODE = 32


@dataclass
class _Compared:
    """The running figures of one row."""

    stage: str
    compares: str
    exact: bool
    """Whether all numbers of the stage are fp32, so that it must equal the reference."""
    gap: Gap = field(default_factory=Gap)
    kl: Mean = field(default_factory=Mean)
    note: str = ""
    finite: bool = True

    def row(self, max_kl: float | None = None) -> StageRow:
        gap, kl = self.gap, self.kl.value if self.kl.count else None
        passed = self.finite
        if gap.scaled is not None:
            # False for NaN too.
            passed = passed and (gap.scaled <= LIMIT if self.exact else math.isfinite(gap.scaled))
        note = self.note
        if kl is not None and not math.isfinite(kl):
            passed = False
        elif kl is not None and max_kl is not None and kl > max_kl:
            passed, note = False, f"KL above {max_kl:g}"
        limit = LIMIT if self.exact and gap.scaled is not None else None
        return StageRow(self.stage, self.compares, passed, gap.absolute, gap.scaled, limit, kl, note)


@dataclass
class _Greedy:
    """The greedy tokens of both sides."""

    equal: int = 0
    """Tokens that were the same on both sides, of ``total``."""
    total: int = 0
    parted: int = 0
    """Prompts after which both sides did not decode the same."""
    ties: int = 0
    """Those of them where the model's logits of both tokens were too close to decide."""

    def row(self, exact: bool) -> StageRow:
        note = f"{self.equal} of {self.total} tokens equal" + f", {self.ties} parted at a tie" * (self.ties > 0)
        return StageRow("greedy", "tokens", not exact or self.parted == self.ties, note=note)


def verify(
    bundle: Bundle,
    folder: Path,
    prompts: list[list[int]] | None = None,
    decode: int = DECODE,
    *,
    exits: Path | None = None,
    max_kl: float | None = None,
    provider: str = "auto",
) -> Verification:
    """Compare ``bundle`` with the model in ``folder`` on ``prompts``, lists of ids (None: three short texts).

    Both sides decode ``decode`` tokens greedily after each prompt. Then every stage is compared on the prompt and the
    model's own continuation. ``exits``: the folder of the bundle's trained exits. ``max_kl``: the largest mean KL of
    the full depth from the model, in nats, that still passes. Raises PromptError for a prompt that does not fit, and
    what ``open_both`` raises.
    """
    context = bundle.manifest.architecture.context
    if prompts is None:
        prompts = [ids[: max(1, context // 2)] for ids in encode_prompts(bundle, DEFAULT_PROMPTS)]
    if not prompts or not all(prompts):
        raise PromptError("there is no prompt to verify on, or one has no tokens", "give at least one token")
    longest = max(len(ids) for ids in prompts)
    if longest > context:
        raise PromptError(f"a prompt has {longest} tokens; this bundle's context is {context}", "shorten the prompt")
    both = open_both(bundle, folder, exits, provider, min(context, longest + decode))
    compared = _rows(both)
    greedy = _Greedy()
    positions = 0
    for ids in prompts:
        expected = both.reference.greedy(ids, min(decode, context - len(ids)))
        found = _decode(both, ids, expected)
        sequence = [*ids, *expected]
        states = both.reference.states(sequence)
        both.put(sequence)
        _compare(both, states, compared)
        _compare_greedy(both, greedy, states, len(ids), expected, found)
        positions += len(sequence)
    rows = [row.row(max_kl if row.stage == "full" else None) for row in compared.values()]
    before = [compare_config(folder, bundle.manifest.architecture), compare_texts(bundle, folder)]
    return Verification(
        model=bundle.manifest.base.model,
        formats=bundle.manifest.formats,
        prompts=len(prompts),
        positions=positions,
        greedy_equal=greedy.equal,
        greedy_total=greedy.total,
        rows=[*before, *rows, greedy.row(is_exact(bundle.manifest.formats))],
    )


def _rows(both: BundleAndReference) -> dict[str, _Compared]:
    """The rows to fill, in the order in which a fault spreads: trunk, exits, head, full depth."""
    formats = both.bundle.manifest.formats
    exact, exact_exits = is_exact(formats), is_exact(formats, exits=True)
    rows = [_Compared(stage.name, "hidden", exact) for stage in both.ladder.trunk]
    rows[-1].compares = "hidden, normed"
    for split, stage in both.ladder.exits.items():
        row = _Compared(stage.name, "hidden, normed", exact_exits)
        if not both.reference.compares_exits:
            known = bool(both.bundle.manifest.quality)
            row.compares, row.note = "finite", "give --exits FOLDER to compare" if known else "not compared"
        rows.append(row)
        if both.reference.has_gates:
            rows.append(_Compared(f"gate {split}", "logits", exact_exits))
    rows.append(_Compared("head", "logits of one input", exact))
    rows.append(_Compared("full", "logits", exact))
    return {row.stage: row for row in rows}


def _decode(both: BundleAndReference, ids: list[int], expected: list[int]) -> list[int]:
    """Decode greedily with the bundle after ``ids``, up to and including the first token that is not the expected."""
    ladder = both.ladder
    both.put(ids)
    found: list[int] = []
    for token in expected:
        found.append(int(ladder.next_logits(ladder.full).argmax()))
        if found[-1] != token:
            break
        ladder.append(found[-1:])
    return found


def _compare_greedy(
    both: BundleAndReference,
    greedy: _Greedy,
    states: ReferenceStates,
    start: int,
    expected: list[int],
    found: list[int],
) -> None:
    """Count equal tokens. Where the two sides part, count a tie if the model's logits of both tokens are too close."""
    equal = sum(mine == theirs for mine, theirs in zip(found, expected, strict=False))
    greedy.equal += equal
    greedy.total += len(expected)
    if equal == len(expected):
        return
    greedy.parted += 1
    position = start + equal - 1
    row = both.reference.logits(states.final[position : position + 1])[0]
    # Both logits may be off by LIMIT, in opposite directions.
    greedy.ties += bool(row[expected[equal]] - row[found[equal]] <= 2 * LIMIT * max(1.0, float(np.abs(row).max())))


def _compare(both: BundleAndReference, states: ReferenceStates, rows: dict[str, _Compared]) -> None:
    """Compare every stage on the bundle's whole sequence, in one batched pass."""
    ladder, reference = both.ladder, both.reference
    length = ladder.length
    ladder.advance(ladder.full, length)
    for stage in ladder.trunk:
        expected = states.final if stage.graph.stop == ladder.full else states.hidden[stage.graph.stop]
        rows[stage.name].gap.add(both.outputs(stage), expected)
    for split in ladder.exits:
        stage = ladder.advance(split, length)
        row, found = rows[stage.name], both.outputs(stage)
        row.finite = row.finite and bool(np.isfinite(found).all())
        if reference.compares_exits:
            row.gap.add(found, states.exits[split])
            _compare_logits(both, split, states.exits[split], row)
        if (gate := rows.get(f"gate {split}")) is not None and stage.gates is not None:
            gate.gap.add(stage.gates.host()[0, :length], reference.gate(split, states.exits[split])[:, None])
    _compare_logits(both, ladder.full, states.final, rows["full"], rows["head"])


def _compare_logits(
    both: BundleAndReference, depth: int, normed: Values, row: _Compared, head: _Compared | None = None
) -> None:
    """Compare the logits of a depth, given the reference's normed states [T, hidden].

    Every depth gets the KL. The full one also gets the differences of the logits: from end to end in ``row``, and in
    ``head`` those of the head alone, with the same input on both sides.
    """
    own = both.outputs(both.ladder.advance(depth, len(normed)))
    for start in range(0, len(normed), CHUNK):
        part = slice(start, min(start + CHUNK, len(normed)))
        expected = both.reference.logits(normed[part])
        found = both.ladder.logits_view(depth, part.start, part.stop)
        row.kl.add(divergence(log_probabilities(expected), log_probabilities(found)))
        if head is not None:
            row.gap.add(found, expected)
            head.gap.add(found, both.reference.logits(own[part]))
