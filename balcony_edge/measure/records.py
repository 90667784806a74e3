"""Reply records for replay: what every exit of a bundle answers at each token of the full model's greedy replies.

A file of records is JSON, compressed if its name ends in .gz. It holds all that a governor needs, so a replay needs
neither the bundle nor ONNX Runtime.
"""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from balcony_controller import FixedDepth, Judge, LadderShape, StageProfile
from balcony_controller.quality import BinTable
from balcony_controller.simulation.records import RecordedReply, Records, Track
from balcony_edge.control.adapter import ladder_shape, quality_model
from balcony_edge.engine.answers import confidence
from balcony_edge.errors import RecordingError
from balcony_edge.files.writing import write_whole
from balcony_edge.session import AdaptiveSession

VERSION = 1
SHIPPED = "records.json.gz"
# The prompts: beginnings of stories, which suit the demo. There are many because over a few replies one policy can look
# better than another by chance.
HEROES = (
    "a little girl named Lily",
    "a boy named Tom",
    "a big brown bear",
    "a tiny mouse",
    "an old farmer",
    "a brave knight",
    "two good friends",
    "the lazy cat",
    "Grandma",
    "a small bird",
    "Sara and her brother",
    "a king who had no crown",
)
OPENINGS = (
    "Once upon a time there was {}",
    "One day {} went to the park",
    "It was a cold and windy night, and {}",
    "In a house near the sea lived {}",
    "Every morning {} played with",
    "The sun was hot, so {}",
    "In the forest {} found an old box",
    "On the way home, {} saw",
    "There was a problem: {} had lost",
)
PROMPTS = tuple(opening.format(hero) for hero, opening in itertools.product(HEROES, OPENINGS))


def record(
    session: AdaptiveSession,
    prompts: Sequence[str] = PROMPTS,
    tokens: int = 150,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Records:
    """Decode every prompt greedily at full depth, then run every exit on the same positions.

    Args:
        session: the bundle to record.
        prompts: texts; the default ones suit the demo.
        tokens: largest number of tokens in a reply.
        progress: told (replies done, replies in all).

    Raises:
        RecordingError: no reply had two tokens or more.
    """
    replies = []
    for index, prompt in enumerate(prompts):
        progress(index, len(prompts))
        reply = _record_reply(session, session.codec.encode(prompt), tokens)
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


def _flags(marks: str) -> list[bool]:
    return [mark == "1" for mark in marks]


def load(path: Path | None = None) -> tuple[Records, str]:
    """The records in a file, and what they were recorded of. None reads those of the demo bundle.

    Raises RecordingError, which names the file.
    """
    if path is None:
        path = Path(str(resources.files("balcony_edge"))) / "replay" / SHIPPED
    try:
        content = path.read_bytes()
        document = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']!r}, not {VERSION}")
        return _parse(document), str(document["about"])
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise RecordingError(
            f"cannot read the records {path}: {error}", "make them again: balcony-edge replay --record BUNDLE -o FILE"
        ) from error


def _parse(document: dict[str, Any]) -> Records:
    shape = LadderShape(
        tuple(document["shape"]["depths"]),
        tuple((str(name), int(stop)) for name, stop in document["shape"]["trunk"]),
        {int(depth): str(name) for depth, name in document["shape"]["exits"].items()},
    )
    exits = shape.depths[:-1]
    profiles = {
        name: StageProfile(
            tuple((int(count), float(ms)) for count, ms in one["points"]), one["context_ms"], one["context_at"]
        )
        for name, one in document["profiles"].items()
    }
    tables = {
        int(depth): BinTable(
            one["edges"],
            one["share"],
            {int(deeper): row for deeper, row in one["agreement"].items()},
            # Older files lack these.
            one.get("drafted"),
            one.get("judged"),
            {int(deeper): rows for deeper, rows in one.get("following", {}).items()},
        )
        for depth, one in document["tables"].items()
    }
    judges = {int(depth): Judge(**one) for depth, one in document["judges"].items()}
    replies = []
    for one in document["replies"]:
        tracks = {}
        for depth in exits:
            track = one["tracks"][str(depth)]
            agreed, marks = _flags(track["agreed"]), track.get("drafted")
            drafted = None if marks is None else _flags(marks)
            columns = [agreed, track["gate"], track["top"], track["margin"], *([] if drafted is None else [drafted])]
            if len({len(column) for column in columns}) != 1:
                raise ValueError(f"the tracks of exit {depth} differ in length")
            tracks[depth] = Track(agreed, track["gate"], track["top"], track["margin"], drafted)
        replies.append(RecordedReply(int(one["prompt"]), tracks))
    if not replies or not exits:
        raise ValueError("there are no replies of exits in it")
    return Records(shape, profiles, tables, judges, replies)
