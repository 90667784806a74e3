"""balcony-edge eval: its figures against plain numpy, its forms, its errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balcony_controller import Confidence
from balcony_edge import AdaptiveSession, BalconyError, DataError
from balcony_edge.measure import plots
from balcony_edge.measure.chances import auroc
from balcony_edge.telemetry import FakeSensors
from balcony_export.cli.eval import table
from balcony_export.evaluation.evaluate import evaluate, read_texts
from helpers.command import cli, fails, here

STORIES = [
    "Once upon a time there was a little dog. The dog liked to run in the park with his friend Tom.",
    "One day, Lily found a red ball under the tree. She was very happy and took it home to her mom.",
    "The sun was hot. Ben and Mia went to the river to swim, and they saw a big fish jump.",
]


@pytest.fixture(scope="module")
def session() -> Any:
    with AdaptiveSession(sensors=FakeSensors(), provider="cpu") as opened:
        yield opened


@pytest.fixture(scope="module")
def found(session: AdaptiveSession) -> dict[str, Any]:
    return evaluate(session, STORIES, ["full", "0.000001ms"])


def softmax_log(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    return np.asarray(
        wide - np.log(np.exp(wide - wide.max(1, keepdims=True)).sum(1, keepdims=True)) - wide.max(1, keepdims=True)
    )


def test_figures_are_those_of_the_logits(session: AdaptiveSession, found: dict[str, Any]) -> None:
    rows = [session.codec.encode(text) for text in STORIES]
    truth = [softmax_log(session.logits(ids)) for ids in rows]
    losses = [-log_p[np.arange(len(ids) - 1), ids[1:]] for log_p, ids in zip(truth, rows, strict=True)]
    assert found["full"]["perplexity"] == pytest.approx(math.exp(np.concatenate(losses).mean()), rel=1e-6)
    for exit_row in found["exits"]:
        answers = [softmax_log(session.logits(ids, exit_row["depth"])) for ids in rows]
        pairs = list(zip(truth, answers, strict=True))
        agreed = np.concatenate([p.argmax(1) == q.argmax(1) for p, q in pairs])
        kl = np.concatenate([(np.exp(p) * (p - q)).sum(1) for p, q in pairs])
        assert exit_row["agreement"] == pytest.approx(agreed.mean())
        assert exit_row["kl"] == pytest.approx(kl.mean(), rel=1e-5)
        gates = []
        for ids in rows:
            session.logits(ids)
            stage = session.ladder.exits[exit_row["depth"]]
            session.ladder.advance(exit_row["depth"], len(ids))
            assert stage.gates is not None
            gates.append(stage.gates.host()[0, : len(ids), 0].copy())
        assert exit_row["gate_auroc"] == pytest.approx(auroc(np.concatenate(gates).astype(np.float64), agreed))
        assert 0.0 <= exit_row["gate_ece"] <= 1.0
        judge = session.governor.quality.judges[exit_row["depth"]]
        chances = []
        for values, answer in zip(gates, answers, strict=True):
            previous = None
            for gate, row in zip(values.tolist(), answer, strict=True):
                second, top = np.sort(row)[-2:]
                chances.append(judge.chance(gate, Confidence(float(top), float(top - second), previous)))
                previous = float(top)
        assert exit_row["judge_auroc"] == pytest.approx(auroc(np.array(chances, np.float64), agreed), abs=1e-6)
        assert 0.0 <= exit_row["judge_ece"] <= 1.0


def test_deeper_exits_cost_more_and_diverge_less(found: dict[str, Any]) -> None:
    costs = [row["cost"] for row in found["exits"]]
    assert costs == sorted(costs)
    assert found["exits"][-1]["kl"] < found["exits"][0]["kl"]
    assert found["exits"][-1]["agreement"] > found["exits"][0]["agreement"]


def test_budgets_are_decoded_and_audited(session: AdaptiveSession, found: dict[str, Any]) -> None:
    lossless, cheapest = found["budgets"]
    assert lossless["agreement"] == 1.0
    assert lossless["depth_shares"] == {str(session.ladder.full): 1.0}
    assert cheapest["depth_shares"] == {str(session.ladder.depths[0]): 1.0}
    assert 0.0 < cheapest["agreement"] < 1.0
    assert cheapest["mean_ms"] > 0


def test_a_bundle_without_gates_has_no_gate_scores(tiny_bundles: Any) -> None:
    with AdaptiveSession(tiny_bundles("fp32", "bit"), sensors=FakeSensors(), provider="cpu") as tiny:
        rows = evaluate(tiny, ["the quick brown fox jumps over the lazy dog", "the quick"])["exits"]
    assert [row["depth"] for row in rows] == [1, 2, 4]
    assert all(row[f"{who}_{what}"] is None for row in rows for who in ("gate", "judge") for what in ("auroc", "ece"))


@pytest.mark.parametrize("length", [2, 16, 17, 33])
def test_documents_of_any_length(session: AdaptiveSession, length: int) -> None:
    """The last chunk of positions may hold a single one, after which nothing follows."""
    text = session.codec.decode(session.codec.encode(STORIES[0] + STORIES[1])[:length])
    ids = session.codec.encode(text)
    found = evaluate(session, [text])
    assert found["tokens"] == len(ids)
    loss = -softmax_log(session.logits(ids))[np.arange(len(ids) - 1), ids[1:]].mean()
    assert found["full"]["perplexity"] == pytest.approx(math.exp(loss), rel=1e-6)


def test_texts_are_read_and_chosen(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("\n<|endoftext|>\n".join(STORIES))
    assert read_texts([path]) == STORIES
    assert read_texts([path], limit=2) == STORIES[:2]
    with pytest.raises(DataError, match="held-out"):
        read_texts([path], heldout=True)
    (tmp_path / "empty.txt").write_text("  \n")
    with pytest.raises(DataError, match="no document"):
        read_texts([tmp_path / "empty.txt"])


def test_the_table_names_every_depth_and_budget(found: dict[str, Any]) -> None:
    lines = table(found).splitlines()
    assert len(lines) == 1 + len(found["exits"]) + 1 + 2 + 1
    assert "12 (full)" in lines[4]
    assert "0.000001ms" in lines[6]


@pytest.mark.parametrize("form", plots.FORMATS)
def test_pictures(found: dict[str, Any], tmp_path: Path, form: str) -> None:
    path = tmp_path / f"quality{form}"
    plots.require(path)
    plots.quality_against_cost(found, path)
    assert path.stat().st_size > 1000
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    with pytest.raises(BalconyError, match="cannot draw"):
        plots.require(tmp_path / "quality.xls")


def test_the_command_line(tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text(STORIES[0])
    result = cli("eval", "--data", str(text), "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert {"perplexity"} <= document["full"].keys()
    wanted = {"depth", "agreement", "kl", "perplexity", "gate_auroc", "gate_ece"}
    assert all(wanted <= row.keys() for row in document["exits"])
    fails(here("eval"), "--data")
    fails(here("eval", "--data", str(tmp_path / "nowhere.txt")), "nowhere.txt")
    fails(here("eval", "--data", str(text), "--budget", "5 bananas"), "bananas")
    fails(here("eval", "--data", str(text), "--plot", "x.doc"), "x.doc")
