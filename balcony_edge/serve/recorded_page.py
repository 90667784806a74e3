"""A recorded run on the server's page: one file that needs neither a server nor a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from balcony_edge.decoding.loop import SOURCES
from balcony_edge.errors import RecordingError
from balcony_edge.files.writing import write_whole

# Stands for a token whose text was not logged.
UNSAID = "\u25aa "
SCRIPTS = ("lanes.js", "strips.js", "app.js")
EMPTY = '<script id="recorded" type="application/json">null</script>'


def write(head: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], found: Mapping[str, Any], path: Path) -> None:
    """Write the page of a decision log (see control/explain.py) to ``path``. Raises RecordingError."""
    try:
        write_whole(path, page(run(head, steps, found)).encode())
    except OSError as error:
        raise RecordingError(f"cannot write {path}: {error.strerror or error}", "name another file") from error


def run(head: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> dict[str, Any]:
    """A log as the page reads it."""
    tokens = []
    for step in steps:
        texts = step["texts"] or [UNSAID] * step["tokens"]
        drafted = step["drafted"] or [None] * step["tokens"]
        for place, (text, depth, exit) in enumerate(zip(texts, step["depths"], drafted, strict=True)):
            one: dict[str, Any] = {"text": text, "depth": depth, "latency_ms": 0.0 if place else step["elapsed_ms"]}
            drafted_at = {} if exit is None else {"drafted_at": exit}
            source = {"source": SOURCES[exit]} if exit in SOURCES else drafted_at
            tokens.append(one | source)
    mean_ms = found["mean_ms"]
    return {
        "budget": head["budget"],
        "props": {"depths": head["depths"], "about": f"a recorded run of {len(tokens)} tokens"},
        "tokens": tokens,
        "timings": {
            "predicted_per_second": 1e3 / mean_ms if mean_ms else None,
            "lossless": found["lossless_share"] == 1.0,
            "agreement": None,
            "energy_mj_per_token": None,
        },
    }


def content(name: str) -> str:
    """A file of the page."""
    return (resources.files("balcony_edge") / "serve" / "page" / name).read_text(encoding="utf-8")


def page(recorded: Mapping[str, Any]) -> str:
    """The page with everything in it."""
    # A text may hold what ends a script.
    data = json.dumps(recorded, ensure_ascii=False).replace("<", "\\u003c")
    found = content("index.html").replace(EMPTY, EMPTY.replace("null", data))
    found = found.replace('<link rel="stylesheet" href="page/style.css">', f"<style>{content('style.css')}</style>")
    for name in SCRIPTS:
        found = found.replace(f'<script src="page/{name}"></script>', f"<script>{content(name)}</script>")
    return found
