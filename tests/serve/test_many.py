"""Many requests: none lost, none answered twice, and no slot leaks whatever clients do."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

from balcony_edge.control.budgets import parse_budget
from balcony_edge.control.loaded import Loaded
from balcony_edge.serve.app import application
from balcony_edge.serve.service import Service
from balcony_edge.serve.slots import Slots
from helpers.places import ROOT

httpx = pytest.importorskip("httpx")
MANY = 1000
SOAK = ROOT / "benchmarks" / "serve_soak.py"


def test_a_thousand_wait_and_each_is_answered_once(loaded: Loaded) -> None:
    service = Service(loaded, Slots(loaded, 2, parse_budget("full"), queue=MANY), "stories")
    most = 0

    async def one(client: object, number: int) -> tuple[int, int]:
        nonlocal most
        most = max(most, service.slots.waiting)
        # The length of its prompt is what tells one answer from the others'.
        body = {"prompt": [7] * (1 + number % 50), "max_tokens": 1, "stream": number % 3 == 0}
        if body["stream"]:
            body["stream_options"] = {"include_usage": True}
        answer = await client.post("/v1/completions", json=body)  # type: ignore[attr-defined]
        if body["stream"]:
            lines = [line for line in answer.text.split("\n\n") if line]
            assert lines[-1] == "data: [DONE]"
            usage = json.loads(lines[-2].removeprefix("data: "))["usage"]
        else:
            usage = answer.json()["usage"]
        return usage["prompt_tokens"], usage["completion_tokens"]

    async def all_of_them() -> list[tuple[int, int]]:
        transport = httpx.ASGITransport(application(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://here", timeout=None) as client:
            return await asyncio.gather(*(one(client, number) for number in range(MANY)))

    found = asyncio.run(all_of_them())
    assert found == [(1 + number % 50, 1) for number in range(MANY)]
    assert most > MANY / 2
    assert (service.slots.busy, service.slots.waiting, service.running) == (0, 0, {})
    counted = [
        line for line in service.metrics.text().decode().splitlines() if line.startswith("balcony_replies_total")
    ]
    assert sum(float(line.rsplit(" ")[-1]) for line in counted) == MANY


@pytest.mark.skipif(not SOAK.exists(), reason="the benchmarks are not part of the wheel")
def test_clients_that_do_everything_wrong() -> None:
    command = [sys.executable, str(SOAK), "--requests", "150", "--minutes", "5", "--tokens", "12"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == []
    assert found["requests"]["lossless replies compared"] > 10
    assert found["requests"]["gone"] > 5
    assert not found["crashed"]
    assert (found["leaked_slots"], found["waiting"]) == (0, 0)
