"""How good each exit of a bundle is on a text, and what a budget makes of them: the real engine, no torch.

Teacher-forced: every depth answers for the same tokens of the text. Under a budget the session itself continues
prompts from the text, and is audited.
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
from balcony_edge.measure.traffic import depth_costs
from balcony_edge.session import AdaptiveSession
from balcony_export.data import corpus
from balcony_export.exits.calibration import auroc, calibration_error, sigmoid
from balcony_export.verification.measures import CHUNK, Mean, divergence, log_probabilities

# A budget's prompts: so many tokens of a document, and as many again to decode.
PROMPT_TOKENS = 32


@dataclass
class _Depth:
    """Sums over positions at one depth."""

    loss: Mean = field(default_factory=Mean)
    kl: Mean = field(default_factory=Mean)
    agreed: Mean = field(default_factory=Mean)
    outcomes: list[np.ndarray] = field(default_factory=list)
    judged: list[float | None] = field(default_factory=list)
    gates: list[np.ndarray] = field(default_factory=list)


def evaluate(
    session: AdaptiveSession,
    texts: Sequence[str],
    budgets: Sequence[str] = (),
    replies: int = 16,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """The figures as one document: full depth, each exit, each budget. Raises DataError for a text without tokens.

    Perplexity is of the text; ``agreement`` the share of positions whose likeliest token is the full model's; ``kl`` is
    KL(full ‖ exit) in nats. ``cost`` is the share of a full token's weight traffic. Two forecasts of "this exit's token
    is the full model's" are scored: the gate's, before the exit has run, and the judge's, which also knows how sure
    the exit is and decides whether its token is shown; null where the bundle has none.
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
        judged_area, judged_error = _judge_scores(found)
        exits.append(
            {
                "depth": depth,
                "agreement": found.agreed.value,
                "kl": found.kl.value,
                "perplexity": math.exp(found.loss.value),
                "gate_auroc": area,
                "gate_ece": error,
                "judge_auroc": judged_area,
                "judge_ece": judged_error,
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
    """Documents of the files; with ``heldout`` only those that training leaves out; ``limit`` of them at the most."""
    texts = [text for text in corpus.read_documents(paths) if not heldout or corpus.is_heldout(text)]
    if not texts:
        raise DataError(
            f"{', '.join(map(str, paths))} holds no {'held-out ' if heldout else ''}document",
            "give --data another text" + (", or leave --heldout out" if heldout else ""),
        )
    return texts[:limit]


def _add_document(session: AdaptiveSession, ids: list[int], depths: dict[int, _Depth]) -> None:
    """Every depth's answers for one document, a few positions at a time: logits of a large vocabulary are large."""
    ladder = session.ladder
    ladder.rewind(0)
    ladder.append(ids)
    judges = session.governor.quality.judges
    # The likeliest two tokens' log-probabilities, the second first, where a judge wants to know how sure the exit is.
    likeliest: dict[int, list[np.ndarray]] = {depth: [] for depth in judges}
    for start in range(0, len(ids), CHUNK):
        stop = min(start + CHUNK, len(ids))
        truth = log_probabilities(ladder.logits(ladder.full, start, stop))
        best = truth.argmax(axis=1)
        following = np.array(ids[start + 1 : stop + 1], np.int64)
        for depth, sums in depths.items():
            answer = truth if depth == ladder.full else log_probabilities(ladder.logits(depth, start, stop))
            sums.loss.add(-answer[np.arange(len(following)), following])
            sums.kl.add(divergence(truth, answer))
            agreed = answer.argmax(axis=1) == best
            sums.agreed.add(agreed)
            sums.outcomes.append(agreed)
            if depth in judges:
                likeliest[depth].append(np.partition(answer, -2, axis=1)[:, -2:])
    for depth, stage in ladder.exits.items():
        if stage.gates is not None:
            sums = depths[depth]
            sums.gates.append(stage.gates.host()[0, : len(ids), 0].astype(np.float64))
            if depth in judges:
                sums.judged += _judged(judges[depth], sums.gates[-1], np.concatenate(likeliest[depth]))


def _judged(judge: Judge, gates: np.ndarray, likeliest: np.ndarray) -> list[float | None]:
    """The judge's forecasts for a document, of its gate's logits [positions] and ``likeliest`` [positions, 2]."""
    second, top = likeliest.T
    tops = top.tolist()
    known = zip(gates.tolist(), tops, (top - second).tolist(), [None, *tops[:-1]], strict=True)
    return [judge.chance(gate, Confidence(top, margin, previous)) for gate, top, margin, previous in known]


def _judge_scores(found: _Depth) -> tuple[float | None, float | None]:
    if not found.judged or None in found.judged:
        return None, None
    chances, outcomes = np.array(found.judged, np.float64), np.concatenate(found.outcomes)
    return auroc(chances, outcomes), calibration_error(chances, outcomes)


def _gate_scores(found: _Depth) -> tuple[float | None, float | None]:
    if not found.gates:
        return None, None
    logits, outcomes = np.concatenate(found.gates), np.concatenate(found.outcomes)
    return auroc(logits, outcomes), calibration_error(sigmoid(logits), outcomes)


def _under_budget(session: AdaptiveSession, budget: str, rows: Sequence[list[int]]) -> dict[str, Any]:
    """Greedy continuations of the documents' beginnings: what they cost and how many tokens are the full model's."""
    tokens = agreed = 0.0
    cost_ms = {"full": 0.0, budget: 0.0}
    counted = {"full": 0, budget: 0}
    depths: dict[int, int] = {}
    for ids in rows:
        prompt = ids[:PROMPT_TOKENS]
        count = min(2 * PROMPT_TOKENS, session.ladder.context - len(prompt))
        # Interleaved with full depth, whose time is the measure.
        for name in cost_ms:
            session.budget = name
            shown = list(session.stream(prompt, count))
            report = session.audit()
            if report.mean_ms is not None:
                cost_ms[name] += report.mean_ms * (len(shown) - 1)
                counted[name] += len(shown) - 1
            if name == budget and report.agreement is not None:
                tokens += len(shown)
                agreed += report.agreement * len(shown)
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
