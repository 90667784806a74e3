"""Measure each exit of a bundle, and budgets, on a text. This runs the engine of a device, without torch.

Exits are measured with teacher forcing: every depth predicts the same tokens, those of the text. Under a budget the
session continues prompts from the text, and an audit tells how many of its tokens are the full model's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from balcony_controller import Confidence, Judge
from balcony_edge.errors import DataError
from balcony_edge.measure.chances import auroc, calibration_error, sigmoid
from balcony_edge.measure.traffic import depth_costs
from balcony_edge.session import AdaptiveSession
from balcony_export.data import corpus
from balcony_export.verification.measures import CHUNK, Mean, divergence, log_probabilities

# Under a budget, the first so many tokens of each document are the prompt, and twice as many are decoded.
PROMPT_TOKENS = 32


@dataclass
class _Depth:
    """What is collected at one depth, over all positions."""

    loss: Mean = field(default_factory=Mean)
    kl: Mean = field(default_factory=Mean)
    agreed: Mean = field(default_factory=Mean)
    outcomes: list[np.ndarray] = field(default_factory=list)
    """Whether each token is the full model's."""
    judge_chances: list[float | None] = field(default_factory=list)
    """How likely that is by the judge."""
    gate_logits: list[np.ndarray] = field(default_factory=list)
    """How likely that is by the gate."""


def evaluate(
    session: AdaptiveSession,
    texts: Sequence[str],
    budgets: Sequence[str] = (),
    replies: int = 16,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Measure ``session`` on ``texts``; returns the figures of full depth, each exit and each budget, ready for JSON.

    ``perplexity`` is that of the text. ``agreement`` is the share of positions where the likeliest token is the full
    model's. ``kl`` is KL(full ‖ exit) in nats. ``cost`` is the weight traffic of a token as a share of full depth's.

    Two predictions of "the exit's token is the full model's" are scored, by AUROC and by calibration error (``ece``).
    The gate makes its prediction after the exit's layer has run, before the head. The judge makes the other one after
    the head, when it also knows the exit's confidence, and decides whether the token is emitted. Scores are None for a
    bundle without gates or judges.

    ``replies``: how many prompts each budget gets. ``progress`` is called with the number of the document and how many
    there are. Raises DataError if no text has two tokens.
    """
    rows = [ids for ids in (session.codec.encode(text)[: session.ladder.context] for text in texts) if len(ids) > 1]
    if not rows:
        raise DataError("the text has no document of two tokens or more", "give --data a longer text")
    depths = {depth: _Depth() for depth in session.ladder.depths}
    session.end_reply()
    for index, ids in enumerate(rows):
        progress(index, len(rows))
        _add_document(session, ids, depths)
    full = session.ladder.full
    costs = depth_costs(session.bundle.manifest.graphs)
    exits = []
    for depth, found in depths.items():
        if depth == full:
            continue
        area, error = _gate_scores(found)
        judge_area, judge_error = _judge_scores(found)
        exits.append(
            {
                "depth": depth,
                "agreement": found.agreed.value,
                "kl": found.kl.value,
                "perplexity": math.exp(found.loss.value),
                "gate_auroc": area,
                "gate_ece": error,
                "judge_auroc": judge_area,
                "judge_ece": judge_error,
                "cost": costs[depth].token,
            }
        )
    return {
        "full": {"depth": full, "perplexity": math.exp(depths[full].loss.value), "cost": 1.0},
        "exits": exits,
        "budgets": [_under_budget(session, budget, rows[:replies]) for budget in budgets],
        "tokens": sum(len(ids) for ids in rows),
        "documents": len(rows),
    }


def read_texts(paths: Sequence[Path], limit: int | None = None, heldout: bool = False) -> list[str]:
    """The documents of files, at most ``limit``; with ``heldout`` only those that training holds out.

    Raises DataError if there is none.
    """
    texts = [text for text in corpus.read_documents(paths) if not heldout or corpus.is_heldout(text)]
    if not texts:
        raise DataError(
            f"{', '.join(map(str, paths))} holds no {'held-out ' if heldout else ''}document",
            "give --data another text" + (", or leave --heldout out" if heldout else ""),
        )
    return texts[:limit]


def _add_document(session: AdaptiveSession, ids: list[int], depths: dict[int, _Depth]) -> None:
    """Let every depth predict one document, a few positions at a time, because logits need much memory."""
    ladder = session.ladder
    ladder.rewind(0)
    ladder.append(ids)
    judges = session.governor.quality.judges
    # For exits with a judge: the two highest log-probabilities at each position, the second one first.
    likeliest: dict[int, list[np.ndarray]] = {depth: [] for depth in judges}
    for start in range(0, len(ids), CHUNK):
        stop = min(start + CHUNK, len(ids))
        truth = log_probabilities(ladder.logits(ladder.full, start, stop))
        best = truth.argmax(axis=1)
        following = np.array(ids[start + 1 : stop + 1], np.int64)
        for depth, sums in depths.items():
            predicted = truth if depth == ladder.full else log_probabilities(ladder.logits(depth, start, stop))
            sums.loss.add(-predicted[np.arange(len(following)), following])
            sums.kl.add(divergence(truth, predicted))
            agreed = predicted.argmax(axis=1) == best
            sums.agreed.add(agreed)
            sums.outcomes.append(agreed)
            if depth in judges:
                likeliest[depth].append(np.partition(predicted, -2, axis=1)[:, -2:])
    for depth, stage in ladder.exits.items():
        if stage.gates is not None:
            sums = depths[depth]
            sums.gate_logits.append(stage.gates.host()[0, : len(ids), 0].astype(np.float64))
            if depth in judges:
                top_two = np.concatenate(likeliest[depth])
                sums.judge_chances += _judge_chances(judges[depth], sums.gate_logits[-1], top_two)


def _judge_chances(judge: Judge, gates: np.ndarray, likeliest: np.ndarray) -> list[float | None]:
    """The judge's predictions for a document, from ``gates`` [positions], the gate's logits, and ``likeliest``.

    ``likeliest`` [positions, 2]: the log-probabilities of the second and the first token.
    """
    second, top = likeliest.T
    tops = top.tolist()
    known = zip(gates.tolist(), tops, (top - second).tolist(), [None, *tops[:-1]], strict=True)
    return [judge.chance(gate, Confidence(top, margin, previous)) for gate, top, margin, previous in known]


def _judge_scores(found: _Depth) -> tuple[float | None, float | None]:
    """(AUROC, calibration error) of the judge."""
    if not found.judge_chances or None in found.judge_chances:
        return None, None
    chances, outcomes = np.array(found.judge_chances, np.float64), np.concatenate(found.outcomes)
    return auroc(chances, outcomes), calibration_error(chances, outcomes)


def _gate_scores(found: _Depth) -> tuple[float | None, float | None]:
    """(AUROC, calibration error) of the gate."""
    if not found.gate_logits:
        return None, None
    logits, outcomes = np.concatenate(found.gate_logits), np.concatenate(found.outcomes)
    return auroc(logits, outcomes), calibration_error(sigmoid(logits), outcomes)


def _under_budget(session: AdaptiveSession, budget: str, rows: Sequence[list[int]]) -> dict[str, Any]:
    """Continue the beginnings of documents greedily: the cost, and how many tokens are the full model's."""
    tokens = agreed = 0.0
    cost_ms = {"full": 0.0, budget: 0.0}
    counted = {"full": 0, budget: 0}
    depths: dict[int, int] = {}
    for ids in rows:
        prompt = ids[:PROMPT_TOKENS]
        count = min(2 * PROMPT_TOKENS, session.ladder.context - len(prompt))
        # In turns with full depth: its time is what the budget's is compared with.
        for name in cost_ms:
            session.budget = name
            emitted = list(session.stream(prompt, count))
            report = session.audit()
            if report.mean_ms is not None:
                cost_ms[name] += report.mean_ms * (len(emitted) - 1)
                counted[name] += len(emitted) - 1
            if name == budget and report.agreement is not None:
                tokens += len(emitted)
                agreed += report.agreement * len(emitted)
                for depth, number in report.depth_counts.items():
                    depths[depth] = depths.get(depth, 0) + number
    mean_ms = {name: cost_ms[name] / counted[name] if counted[name] else None for name in cost_ms}
    full_ms, own_ms = mean_ms["full"], mean_ms[budget]
    return {
        "budget": budget,
        "agreement": agreed / tokens if tokens else None,
        "mean_ms": own_ms,
        "cost": own_ms / full_ms if own_ms and full_ms else None,
        "depth_shares": {str(depth): number / tokens for depth, number in sorted(depths.items()) if number},
    }
