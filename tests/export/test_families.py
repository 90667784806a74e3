"""Every family, its quirks switched on: segments, exits and decoding equal transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_export.balcony import build
from balcony_export.base import load_base
from balcony_export.bundle_writer import export_bundle
from balcony_export.formats import Choice
from helpers.families import ROWS, SIZES, SPLITS, make_model

PROMPT = 21
STEPS = 32


@pytest.mark.parametrize("row", ROWS)
def test_family(row: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", *ROWS[row])
    bundle = export_bundle(tmp_path / "model", tmp_path / "b", model=row, exits="init", splits=SPLITS, choice=Choice())
    ladder = Ladder(bundle, Runtime.start("cpu"))
    ids = np.random.default_rng(5).integers(3, SIZES["vocab_size"], PROMPT).tolist()
    with torch.inference_mode():
        expected = model.generate(torch.tensor([ids]), max_new_tokens=STEPS, do_sample=False, eos_token_id=None)[
            0
        ].tolist()
        outputs = model(torch.tensor([expected]), output_hidden_states=True)
    ladder.append(ids)
    greedy = []
    for _ in range(STEPS):
        greedy.append(int(ladder.next_logits(ladder.full).argmax()))
        # Prefill, then one position a step, for every exit too.
        for split in SPLITS:
            ladder.next_logits(split)
        ladder.append(greedy[-1:])
    assert ids + greedy == expected
    np.testing.assert_allclose(ladder.logits(ladder.full), outputs.logits[0], rtol=0, atol=1e-4)
    for stage, split in zip(ladder.trunk, SPLITS, strict=False):
        np.testing.assert_allclose(
            stage.outputs.host()[0, : len(expected)], outputs.hidden_states[split][0], rtol=0, atol=1e-4
        )
    base = load_base(tmp_path / "model", device="cpu")
    with torch.inference_mode():
        trace = base.trace(torch.tensor([expected]), SPLITS)
        exits = build(base, SPLITS, "final").normed(trace.hidden, trace.context)
    for split, normed in zip(SPLITS, exits, strict=True):
        np.testing.assert_allclose(ladder.logits(split), base.head.logits(normed)[0], rtol=0, atol=1e-4)
    # The exit before the last layer is the last layer and the final norm: the whole model again.
    np.testing.assert_allclose(ladder.logits(SPLITS[-1]), outputs.logits[0], rtol=0, atol=1e-4)
