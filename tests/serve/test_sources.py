"""Where a token came from, as replies, metrics and recorded pages say it."""

from __future__ import annotations

from typing import Any

import pytest

from balcony_edge.decoding.loop import GUESS, LOOKUP
from balcony_edge.decoding.reply import Token
from balcony_edge.serve.api.figures import source
from balcony_edge.serve.metrics import Metrics
from balcony_edge.serve.recorded_page import run
from balcony_edge.serve.service import Service

FULL = 12
CASES = [
    (FULL, None, {}, (FULL, "full")),
    (3, None, {}, (3, "exit")),
    (FULL, 3, {"drafted_at": 3}, (3, "draft")),
    (FULL, LOOKUP, {"source": "lookup"}, (FULL, "lookup")),
    (FULL, GUESS, {"source": "guess"}, (FULL, "guess")),
]


@pytest.mark.parametrize(("depth", "drafted_at", "said", "counted"), CASES)
def test_every_source_is_told(
    service: Service, depth: int, drafted_at: int | None, said: dict[str, Any], counted: tuple[int, str]
) -> None:
    token = Token("word", 7, depth, 1.5, drafted_at)
    assert source(token) == {"id": 7, "depth": depth, "latency_ms": 1.5, **said}
    metrics = Metrics(service.slots)
    metrics.token(token, FULL, is_first=False)
    labels = f'{{depth="{counted[0]}",source="{counted[1]}"}} 1.0'
    assert f"balcony_tokens_total{labels}" in metrics.text().decode()
    head = {"budget": "full", "depths": [3, FULL]}
    step = {"texts": ["word"], "tokens": 1, "drafted": [drafted_at], "depths": [depth], "elapsed_ms": 1.5}
    found = {"mean_ms": 1.5, "lossless_share": 1.0}
    shown = run(head, [step], found)["tokens"][0]
    assert shown == {"text": "word", "depth": depth, "latency_ms": 1.5, **said}
