"""The contest of methods (benchmarks/baselines.py): stopped, it goes on with the same bits, and all are scored."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
OPTIONS = "--splits 1,2 --steps 5 --rows 2 --length 16 --heldout-rows 4 --save-every 2 --threads 1"

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not BENCHMARKS.exists(), reason="the benchmarks are not part of the wheel"),
]


def test_a_stopped_contest_goes_on_with_the_same_bits(
    toy: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import baselines
    import lab as of_lab
    import scoring

    given = ["--model", str(toy), "--data", str(text), "--out", str(tmp_path / "out"), *OPTIONS.split()]
    lab = of_lab.open_lab(of_lab.arguments_of("").parse_args(given))

    def contestants() -> list[Any]:
        return [one for make in baselines.METHODS.values() for one in make(lab, 0)]

    def run(learners: list[Any], folder: Path, stop: int) -> None:
        for step in of_lab.train(lab, learners, {"text": lab.text.train}, 0, folder, 2):
            if step == stop:
                return

    whole, again = contestants(), contestants()
    begun = [[value.clone() for value in one.module.parameters()] for one in whole]
    run(whole, tmp_path / "whole", 5)
    run(contestants(), tmp_path / "again", 3)
    run(again, tmp_path / "again", 5)
    for one, other, start in zip(whole, again, begun, strict=True):
        values = list(zip(one.module.parameters(), other.module.parameters(), start, strict=True))
        assert all(torch.equal(value, same) for value, same, _ in values), one.name
        assert not all(torch.equal(value, untrained) for value, _, untrained in values), one.name

    scores = scoring.score(lab, whole, {"own": lab.own, "heldout": lab.text.heldout})
    assert scores[of_lab.BASE, 4]["own agreement"] == 1.0
    assert scores[of_lab.BASE, 4]["heldout kl_nats"] == pytest.approx(0.0, abs=1e-6)
    assert all(-1e-6 < found["heldout kl_nats"] < 5 for name, found in scores.items() if name[0] != of_lab.BASE)
    ledger = scoring.Ledger(tmp_path / "scores.jsonl")
    ledger.add(0, 5, scores)
    with (tmp_path / "scores.jsonl").open("a") as stream:
        stream.write('{"seed": 0, "step": ')
    read = scoring.Ledger(tmp_path / "scores.jsonl")
    assert read.has(0, 5)
    assert not read.has(1, 5)
    assert read.at(5) == ledger.at(5)
