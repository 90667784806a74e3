"""How far a family's bundle lies from transformers: segments, exits, decoding, and the uncut graph for others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from balcony_edge.bundle.folder import Bundle
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_export.bundling.uncut import Uncut
from balcony_export.bundling.writer import export_bundle
from balcony_export.exits.balcony import build
from balcony_export.model.base import load_base
from helpers.families import ROWS, SIZES, SPLITS, make_model

PROMPT = 21
STEPS = 32


@dataclass(frozen=True)
class Parity:
    """Largest absolute differences over prompt and decoded positions; ``greedy`` counts equal tokens of STEPS."""

    hidden: float
    """Hidden states, worst split."""
    logits: float
    """Full depth, prefilled by the prompt and decoded one position a step."""
    exits: float
    """Logits, worst exit, against its torch module."""
    uncut: float
    """Logits of the graph for onnxruntime-genai."""
    greedy: int


def measure(row: str, folder: Path) -> Parity:
    """Export the row's model under ``folder`` and compare everything with transformers in fp32."""
    shards = "60KB" if "sharded" in row else None
    model = make_model(folder / "model", *ROWS[row], shards)
    bundle = export_bundle(folder / "model", folder / "b", model=row, exits="init", splits=SPLITS)
    ladder = Ladder(bundle, Runtime.start("cpu"))
    ids = np.random.default_rng(5).integers(3, SIZES["vocab_size"], PROMPT).tolist()
    with torch.inference_mode():
        generated = model.generate(torch.tensor([ids]), max_new_tokens=STEPS, do_sample=False, eos_token_id=None)
        expected = generated[0].tolist()
        outputs = model(torch.tensor([expected]), output_hidden_states=True)
    greedy = 0
    ladder.append(ids)
    for token in expected[PROMPT:]:
        greedy += int(ladder.next_logits(ladder.full).argmax()) == token
        # Prefill, then one position a step, for every exit too.
        for split in SPLITS:
            ladder.next_logits(split)
        ladder.append([token])
    base = load_base(folder / "model", device="cpu")
    with torch.inference_mode():
        states = base.states(torch.tensor([expected]), SPLITS)
        exits = build(base, SPLITS, "final").normed(states.hidden, states.context)
        modules = [base.head.logits(normed)[0] for normed in exits]
    logits = outputs.logits[0]
    found = ladder.logits(ladder.full)
    gaps = [
        _gap(stage.outputs.host()[0, : len(expected)], outputs.hidden_states[split][0])
        for stage, split in zip(ladder.trunk, SPLITS, strict=False)
    ]
    return Parity(
        hidden=max(gaps),
        logits=_gap(found, logits),
        # The exit before the last layer is the last layer and the final norm: the whole model again.
        exits=max(
            _gap(ladder.logits(SPLITS[-1]), logits),
            *(_gap(ladder.logits(split), module) for split, module in zip(SPLITS, modules, strict=True)),
        ),
        uncut=_gap(uncut_logits(bundle, expected, PROMPT), logits),
        greedy=greedy,
    )


def uncut_logits(bundle: Bundle, ids: list[int], prompt: int) -> npt.NDArray[np.float32]:
    """Logits [len(ids), V] of the graph for onnxruntime-genai, fed as that feeds it: prompt, then token by token."""
    uncut = Uncut(bundle, len(ids))
    return np.concatenate([uncut.append(ids[:prompt]), *(uncut.append([token]) for token in ids[prompt:])])


def _gap(found: npt.NDArray[np.float32], expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    return float(np.abs(found - expected.numpy()).max())
