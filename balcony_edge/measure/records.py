"""Reply records for replay: what every exit of a bundle answers at each token of the full model's greedy replies.

A file of records is JSON, compressed if its name ends in .gz. It holds all that a governor needs, so a replay needs
neither the bundle nor ONNX Runtime.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from balcony_controller import FixedDepth, Judge, LadderShape, StageProfile
from balcony_controller.quality import BinTable
from balcony_controller.shape import HEAD
from balcony_controller.simulation.records import RecordedReply, Records, Track
from balcony_edge.bundle.manifest import MOST_EXITS, GateBins
from balcony_edge.control.adapter import ladder_shape, quality_model
from balcony_edge.control.profile import STAGE_MS, stage_profile
from balcony_edge.engine.answers import confidence
from balcony_edge.errors import RecordingError
from balcony_edge.files import values
from balcony_edge.files.reading import Reader, parse_json
from balcony_edge.files.writing import write_whole
from balcony_edge.session import AdaptiveSession

VERSION = 1
READER = Reader(
    "the records", RecordingError, "make them again: balcony-edge replay --record BUNDLE -o FILE", 256 << 20
)
# The records that come with the package: those of the demo's stories, and of models with a short name.
DEMO = "demo"
MOST_DEPTH, MOST_TOKENS = 4096, 10_000_000
# Bounds of a judge's weights and scores; its rows, and what a track holds of an exit's confidence.
WEIGHTS = (-1e6, 1e6)
ROWS, CONFIDENCE = ("share", "agreement"), ("top", "margin")


def record(
    session: AdaptiveSession,
    prompts: Sequence[Sequence[int]],
    tokens: int = 150,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Records:
    """Decode every prompt greedily at full depth, then run every exit on the same positions.

    Args:
        session: the bundle to record.
        prompts: token ids, see prompts.py.
        tokens: largest number of tokens in a reply.
        progress: told (replies done, replies in all).

    Raises:
        RecordingError: no reply had two tokens or more.
    """
    replies = []
    for index, prompt in enumerate(prompts):
        progress(index, len(prompts))
        reply = _record_reply(session, list(prompt), tokens)
        if reply is not None:
            replies.append(reply)
    if not replies:
        raise RecordingError("no prompt led to a reply of two tokens or more", "use a bundle with a longer context")
    quality = quality_model(session.bundle)
    return Records(
        ladder_shape(session.ladder), session.ladder_profile.profiles, quality.tables, quality.judges, replies
    )


def _record_reply(session: AdaptiveSession, ids: list[int], tokens: int) -> RecordedReply | None:
    ladder = session.ladder
    whole = session.reply(ids, tokens, decider=FixedDepth(ladder.full), fresh=True)
    for _ in whole.steps():
        pass
    reply = whole.tokens
    if len(reply) < 2:
        return None
    tracks = {}
    for depth in ladder.depths[:-1]:
        rows = ladder.logits(depth, len(ids) - 1, len(ids) - 1 + len(reply))
        found = [confidence(row, int(row.argmax())) for row in rows]
        gates, drafts = ladder.exits[depth].gates, ladder.exits[depth].drafts
        span = slice(len(ids) - 1, len(ids) - 1 + len(reply))
        tracks[depth] = Track(
            (rows.argmax(axis=1) == np.array(reply)).tolist(),
            [None] * len(reply) if gates is None else [float(value) for value in gates.host()[0, span, 0]],
            [item.top for item in found],
            [item.margin for item in found],
            None if drafts is None else (drafts.host()[0, span] == np.array(reply)).tolist(),
        )
    return RecordedReply(len(ids), tracks)


def save(records: Records, path: Path, about: str) -> None:
    """Write a file of records, whole or not at all. ``about``: what they were recorded of. Raises RecordingError."""
    shape = records.shape
    document = {
        "version": VERSION,
        "about": about,
        "shape": {"depths": shape.depths, "trunk": shape.trunk, "exits": shape.exits},
        "profiles": {
            name: {"points": one.points, "context_ms": one.context_ms, "context_at": one.context_at}
            for name, one in records.profiles.items()
        },
        "tables": {depth: _table(one) for depth, one in records.tables.items()},
        "judges": {
            depth: {
                "weights": dict(one.weights),
                "bias": one.bias,
                "edges": list(one.edges),
                "share": list(one.share),
                "agreement": list(one.agreement),
                "previous_mean": one.previous_mean,
            }
            for depth, one in records.judges.items()
        },
        "replies": [
            {
                "prompt": reply.prompt,
                "tracks": {
                    depth: {
                        "agreed": _marks(track.agreed),
                        "drafted": None if track.drafted is None else _marks(track.drafted),
                        "gate": [None if value is None else round(value, 3) for value in track.gate],
                        "top": [round(value, 4) for value in track.top],
                        "margin": [round(value, 3) for value in track.margin],
                    }
                    for depth, track in reply.tracks.items()
                },
            }
            for reply in records.replies
        ],
    }
    content = json.dumps(document, separators=(",", ":")).encode()
    try:
        # Without a time stamp, so that the same records give the same bytes.
        write_whole(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    except OSError as error:
        raise RecordingError(f"cannot write the records {path}: {error}", "choose another place") from error


def _table(one: BinTable) -> dict[str, Any]:
    agreement = {str(deeper): list(row) for deeper, row in one.agreement.items()}
    return {
        "edges": list(one.edges),
        "share": list(one.share),
        "agreement": agreement,
        "drafted": None if one.drafted is None else list(one.drafted),
        "judged": None if one.judged is None else [list(row) for row in one.judged],
        "following": {str(deeper): [list(row) for row in rows] for deeper, rows in one.following.items()},
    }


def _marks(flags: Sequence[bool]) -> str:
    return "".join("01"[flag] for flag in flags)


def _flags(marks: Any) -> list[bool]:
    if not isinstance(marks, str) or not set(marks) <= {"0", "1"}:
        raise ValueError(f"{values.brief(marks)} are no marks")
    return [mark == "1" for mark in marks]


def shipped() -> dict[str, Path]:
    """The files of records that come with the package, by name."""
    folder = Path(str(resources.files("balcony_edge"))) / "replay"
    return {path.name.removesuffix(".json.gz"): path for path in sorted(folder.glob("*.json.gz"))}


def load(source: Path | str = DEMO) -> tuple[Records, str]:
    """The records in a file, or those of a name of ``shipped``, and what they were recorded of.

    Raises RecordingError, which names the file.
    """
    path = Path(source)
    if not path.exists():
        path = shipped().get(str(source), path)
    content = READER.unpacked(path) if path.suffix == ".gz" else READER.content(path)
    with READER.explained(path):
        document = values.mapping(parse_json(content.decode("utf-8")), "the document")
        if document["version"] != VERSION:
            raise ValueError(f"its version is {values.brief(document['version'])}, not {VERSION}")
        return _parse(document), values.text(document["about"], "about")


def _parse(document: dict[str, Any]) -> Records:
    """The records in a document. Raises one of UNFITTING (see files/reading.py) for what is none."""
    shape = _shape(document["shape"])
    exits = shape.depths[:-1]
    profiles = {name: _profile(one) for name, one in values.mapping(document["profiles"], "profiles").items()}
    lacking = {HEAD, *(name for depth in shape.depths for name in shape.stages(depth))} - set(profiles)
    if lacking:
        raise ValueError(f"there is no profile of {min(lacking)}")
    bins = {int(depth): GateBins.model_validate(one) for depth, one in document["tables"].items()}
    for depth, one in bins.items():
        if depth not in exits or not {deeper for deeper in exits if deeper >= depth} <= set(one.agreement):
            raise ValueError(f"the tables of exit {depth} do not fit the other exits")
        for deeper, rows in one.following.items():
            if deeper not in bins or any(len(row) != len(bins[deeper].share) for row in rows):
                raise ValueError(f"the tables of exit {depth} tell of bins that exit {deeper} lacks")
    judges = {int(depth): _judge(one) for depth, one in document["judges"].items()}
    for depth, one in bins.items():
        if one.judged and (depth not in judges or any(len(row) != len(judges[depth].share) for row in one.judged)):
            raise ValueError(f"the tables and the judge of exit {depth} disagree")
    tables = {
        depth: BinTable(one.edges, one.share, one.agreement, one.drafted, one.judged, one.following)
        for depth, one in bins.items()
    }
    replies = [_reply(one, exits) for one in values.listed(document["replies"], "replies", MOST_TOKENS)]
    if not replies or not exits:
        raise ValueError("there are no replies of exits in it")
    return Records(shape, profiles, tables, judges, replies)


def _shape(given: Any) -> LadderShape:
    depths = tuple(values.whole(depth, "a depth", 1, MOST_DEPTH) for depth in values.listed(given["depths"], "depths"))
    trunk = tuple(
        (values.text(name, "a stage"), values.whole(stop, "a stage's end", 1, MOST_DEPTH))
        for name, stop in values.listed(given["trunk"], "trunk", MOST_DEPTH)
    )
    exits = {int(depth): values.text(name, "an exit") for depth, name in given["exits"].items()}
    stops = [stop for _, stop in trunk]
    if not depths or list(depths) != sorted(set(depths)) or stops != sorted(set(stops)) or len(depths) > MOST_EXITS + 1:
        raise ValueError("its depths do not ascend, or are too many")
    if set(exits) != set(depths[:-1]) or not set(depths) <= set(stops):
        raise ValueError("depths, exits and trunk do not match")
    return LadderShape(depths, trunk, exits)


def _profile(given: Any) -> StageProfile:
    context_ms = values.number(given["context_ms"], "context_ms", 0.0, STAGE_MS[1])
    found = stage_profile(given["points"])
    return StageProfile(found.points, context_ms, values.whole(given["context_at"], "context_at", 0, 1 << 30))


def _judge(given: Any) -> Judge:
    """A judge. Its edges are scores, which JudgeRecord has as probabilities; all else is as there."""
    weights = {name: values.number(value, name, *WEIGHTS) for name, value in given["weights"].items()}
    edges = [values.number(edge, "an edge", *WEIGHTS) for edge in values.listed(given["edges"], "edges", 256)]
    if edges != sorted(edges):
        raise ValueError("a judge's edges do not ascend")
    share, agreement = (
        [values.number(one, name, 0.0, 1.0) for one in values.listed(given[name], name, 257)] for name in ROWS
    )
    previous_mean = values.optional(given.get("previous_mean"), "previous_mean", *WEIGHTS)
    return Judge(weights, values.number(given["bias"], "bias", *WEIGHTS), edges, share, agreement, previous_mean)


def _reply(given: Any, exits: Sequence[int]) -> RecordedReply:
    tracks = {}
    for depth in exits:
        track = given["tracks"][str(depth)]
        agreed, marks = _flags(track["agreed"]), track.get("drafted")
        drafted = None if marks is None else _flags(marks)
        gate = [values.optional(one, "gate") for one in values.listed(track["gate"], "gate", MOST_TOKENS)]
        top, margin = ([values.number(one, name) for one in values.listed(track[name], name)] for name in CONFIDENCE)
        tracks[depth] = Track(agreed, gate, top, margin, drafted)
    lengths = {len(one) for track in tracks.values() for one in (track.agreed, track.gate, track.top, track.margin)}
    lengths |= {len(track.drafted) for track in tracks.values() if track.drafted is not None}
    if len(lengths) != 1 or not max(lengths):
        raise ValueError("the tracks of a reply differ in length, or have none")
    return RecordedReply(values.whole(given["prompt"], "prompt", 0, 1 << 30), tracks)
