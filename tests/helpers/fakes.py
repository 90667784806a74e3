"""A controller's world without a device: a ladder of known costs and replies of exits of known agreement."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from balcony_controller import Budget, CostModel, Governor, Judge, LadderShape, Limits, PowerModel, StageProfile
from balcony_controller.planning.features import ALL, Features
from balcony_controller.quality import BinTable
from balcony_controller.shape import DRAFT, HEAD
from balcony_controller.simulation.records import RecordedReply, Records, Track

SHAPE = LadderShape(
    depths=(3, 6, 9, 12),
    trunk=(("segment 0-3", 3), ("segment 3-6", 6), ("segment 6-9", 9), ("segment 9-12", 12)),
    exits={3: "exit 3", 6: "exit 6", 9: "exit 9"},
)
# A full-depth token of the profiles below, and one of the shallowest exit.
FULL_MS, SHALLOW_MS = 12.5, 4.5
EXITS = SHAPE.depths[:-1]
# How hard tokens are (log-odds of agreement, mean and spread) by exit.
EASE = {3: (1.4, 1.8), 6: (2.0, 1.9), 9: (2.8, 2.0)}


def profile(call_ms: float, slope_ms: float) -> StageProfile:
    """A stage whose batched call costs ``call_ms`` and ``slope_ms`` for each position."""
    return StageProfile(tuple((count, call_ms + slope_ms * count) for count in (1, 2, 4, 8, 16, 32)))


def profiles() -> dict[str, StageProfile]:
    """Segments of 3 layers, exits of one, a head worth half a layer; 1 ms a layer."""
    segments = {name: profile(2.7, 0.3) for name, _ in SHAPE.trunk}
    exits = {name: profile(0.9, 0.1) for name in SHAPE.exits.values()}
    return {**segments, **exits, HEAD: profile(0.4, 0.1)}


def _tracks(tokens: int, rng: np.random.Generator) -> dict[int, Track]:
    """Confidence foretells agreement as well as can be, the gate half as well; deeper exits know what shallower do."""
    shared = rng.normal(0.0, 1.0, tokens)
    luck = rng.random(tokens)
    tracks = {}
    for depth, (mean, spread) in EASE.items():
        logit = mean + spread * (0.8 * shared + 0.6 * rng.normal(0.0, 1.0, tokens))
        gate = mean + 0.5 * (logit - mean) + 0.7 * rng.normal(0.0, 1.0, tokens)
        agreed = luck < 1.0 / (1.0 + np.exp(-logit))
        top = np.minimum(-1e-3, -np.exp(-logit / 2))
        tracks[depth] = Track(agreed.tolist(), gate.tolist(), top.tolist(), logit.tolist())
    return tracks


def _bins(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    edges = np.quantile(values, np.arange(1, count) / count)
    return edges, np.searchsorted(edges, values, side="right")


@functools.cache
def records(replies: int = 20, tokens: int = 150) -> Records:
    """Replies of the fake bundle, its calibration fitted on other tokens of the same kind."""
    rng = np.random.default_rng(7)
    known = _tracks(20_000, rng)
    tables, judges = {}, {}
    for depth in EXITS:
        chance = 1.0 / (1.0 + np.exp(-np.array(known[depth].gate)))
        edges, place = _bins(chance, 8)
        rows = {
            deeper: tuple(float(np.mean(np.array(known[deeper].agreed)[place == index])) for index in range(8))
            for deeper in EXITS
            if deeper >= depth
        }
        tables[depth] = BinTable(tuple(edges.tolist()), (1 / 8,) * 8, rows)
        edges, place = _bins(np.array(known[depth].margin), 16)
        agreed = np.array(known[depth].agreed)
        means = tuple(float(agreed[place == index].mean()) for index in range(16))
        judges[depth] = Judge({"margin": 1.0}, 0.0, tuple(edges.tolist()), (1 / 16,) * 16, means)
    made = [RecordedReply(16, _tracks(tokens, rng)) for _ in range(replies)]
    return Records(SHAPE, profiles(), tables, judges, made)


def drafting(known: Records, kept: float = 0.95) -> Records:
    """The same with gates that give drafts, of which a share ``kept`` is right where the exit's own token is."""
    rng = np.random.default_rng(11)
    tables = {
        split: replace(table, drafted=[kept * agreed for agreed in table.agreement[split]])
        for split, table in known.tables.items()
    }
    replies = []
    for reply in known.replies:
        tracks = {
            depth: replace(track, drafted=[agreed and rng.random() < kept for agreed in track.agreed])
            for depth, track in reply.tracks.items()
        }
        replies.append(replace(reply, tracks=tracks))
    return replace(known, tables=tables, replies=replies)


def governor(
    budget: str,
    *,
    rounds: bool = True,
    min_agreement: float = 0.0,
    limits: Limits | None = None,
    power_model: PowerModel | None = None,
    known: Records | None = None,
    drafts: bool = False,
    features: Features = ALL,
) -> Governor:
    """A fresh governor over the fake ladder; with ``drafts`` there is a draft stage that costs as an exit does."""
    stage = {DRAFT: profile(0.9, 0.1)} if drafts else {}
    return Governor(
        replace(SHAPE, drafts=drafts),
        CostModel({**(known.profiles if known else profiles()), **stage}),
        (known or records()).quality(),
        Budget.parse(budget),
        rounds=rounds,
        min_agreement=min_agreement,
        limits=limits,
        power_model=power_model,
        features=features,
    )
