"""balcony-edge bench: its rows, its forms, and figures that are what they say."""

from __future__ import annotations

import csv
import io
import itertools
import json
from dataclasses import replace
from typing import Any

import pytest

from balcony_controller import Limits, PowerModel
from balcony_edge import AdaptiveSession, BudgetError, PromptError
from balcony_edge.cli.bench import comma_separated, markdown
from balcony_edge.measure.bench import TEXT, bench
from balcony_edge.telemetry import FakeSensors, Reading, Snapshot
from helpers.command import fails, here


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    with AdaptiveSession(sensors=FakeSensors(), provider="cpu") as session:
        return bench(session, prompt_tokens=10_000, new_tokens=40, rounds=2, budgets=("0.000001ms", "full"))


def rows(found: dict[str, Any], mode: str) -> list[dict[str, Any]]:
    return [row for row in found["rows"] if row["mode"] == mode]


def test_there_is_a_row_for_every_way_to_decode(found: dict[str, Any]) -> None:
    assert [row["depth"] for row in rows(found, "exit")] == [3, 6, 9]
    assert [row["depth"] for row in rows(found, "full")] == [12]
    assert [row["budget"] for row in rows(found, "adaptive")] == ["0.000001ms", "full"]
    assert len(rows(found, "lossless")) == (1 if found["machine"]["bit_exact"] else 0)
    for row in found["rows"]:
        assert row["pp_tok_s"] > 0
        assert row["tg_tok_s"] > 0
        assert row["sd"] >= 0
        assert row["j_per_token"] is None
    # The prompt was cut to what the context takes.
    assert found["prompt_tokens"] == 255


def test_lossless_ways_agree_and_exits_do_less(found: dict[str, Any]) -> None:
    for mode in ("full", "lossless"):
        assert all(row["agreement"] == 1.0 for row in rows(found, mode))
    exits = rows(found, "exit")
    assert all(0.2 < row["agreement"] < 1.0 for row in exits)
    cheapest, lossless = rows(found, "adaptive")
    assert 0.2 < cheapest["agreement"] < 1.0
    assert lossless["agreement"] == 1.0
    assert rows(found, "full")[0]["traffic_share"] == pytest.approx(1.0)


def test_a_budget_in_watts_pauses_as_a_live_reply_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 14 W while decoding and 4 W at rest, 8 W allow decoding two fifths of the time."""
    pauses: list[float] = []
    monkeypatch.setattr("balcony_edge.decoding.reply.time.sleep", pauses.append)
    power = PowerModel(4.0, 14.0)
    with AdaptiveSession(sensors=FakeSensors(), provider="cpu", speculate=False, power_model=power) as session:
        row = rows(bench(session, 16, 40, 1, budgets=("8W",)), "adaptive")[0]
        assert session.governor.pause_ms > 0.0
    assert row["budget"] == "8W"
    # One before each step but the first of the reply that is timed.
    assert len(pauses) == 39
    assert all(pause > 0.0 for pause in pauses)


def test_a_governor_hears_the_sensors_while_it_is_measured() -> None:
    heat = FakeSensors()
    heat.set(temperature_c=95.0)
    with AdaptiveSession(sensors=heat, provider="cpu", limits=Limits(temperature_c=90.0)) as session:
        row = rows(bench(session, 16, 20, 1, budgets=("1000ms",)), "adaptive")[0]
        assert session.governor.cut
    assert row["agreement"] < 1.0


class Meter:
    """Sensors whose energy counter gains 3 J a second, a second at each look."""

    def __init__(self, moves: bool) -> None:
        self._looks = itertools.count() if moves else itertools.repeat(7)

    @property
    def snapshot(self) -> Snapshot:
        look = next(self._looks)
        reading = Reading(3.0 * look, "J", float(look), "meter")
        return replace(Snapshot.unknown(), energy_j=reading)

    def start(self) -> None: ...

    def stop(self) -> None: ...


def test_energy_is_known_where_the_counter_moves() -> None:
    with AdaptiveSession(sensors=Meter(moves=True), provider="cpu") as session:
        for row in bench(session, 8, 8, 1)["rows"]:
            assert row["j_per_token"] == pytest.approx(3.0 / row["tg_tok_s"])
    with AdaptiveSession(sensors=Meter(moves=False), provider="cpu") as session:
        assert all(row["j_per_token"] is None for row in bench(session, 8, 8, 1)["rows"])


def test_forms(found: dict[str, Any]) -> None:
    lines = markdown(found).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|") == 13
    assert "pp255 t/s" in lines[0]
    assert "tg40 t/s" in lines[0]
    assert len(lines) == 2 + len(found["rows"]) + 2
    table = list(csv.DictReader(io.StringIO(comma_separated(found))))
    assert [row["mode"] for row in table] == [row["mode"] for row in found["rows"]]
    assert table[0]["onnxruntime"] == found["machine"]["onnxruntime"]
    assert "forest" in TEXT


def test_the_command_line() -> None:
    result = here("bench", "-p", "8", "-n", "4", "-r", "1", "-o", "json", "--budget", "50ms")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert {row["mode"] for row in document["rows"]} >= {"exit", "full", "adaptive"}
    assert document["machine"]["threads"] >= 1
    fails(here("bench", "--budget", "8 parsecs"), "parsecs")
    fails(here("bench", "nowhere"), "nowhere")
    assert here("bench", "-o", "xml").returncode == 2


def test_what_cannot_be_measured() -> None:
    with AdaptiveSession(sensors=FakeSensors(), provider="cpu", max_context=8) as session:
        with pytest.raises(PromptError, match="context of 8"):
            bench(session)
        with pytest.raises(BudgetError):
            bench(session, budgets=("5 bananas",))
