"""Training of every family: the base as transformers computes it, and exits that the exported graphs reproduce."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from balcony_edge.bundle.folder import Bundle
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import ModelError
from balcony_export.cli.export import export
from balcony_export.cli.train import train
from balcony_export.demo.tokenizer import train_tokenizer
from balcony_export.exits import store
from balcony_export.exits.balcony import build
from balcony_export.exits.gate import Gate, gate_head
from balcony_export.model.base import load_base
from balcony_export.model.families import FAMILIES
from balcony_export.training.chunked_loss import predictions
from helpers.families import ROWS, SIZES, SPLITS, as_modules, make_model
from helpers.in_process import invoke

LETTERS = "abcdefghijklmnop "
VOCABULARY = 288  # room for a byte-level tokenizer
LENGTH = 24  # beyond every window of ROWS
Family = tuple[Path, Any]


@pytest.fixture(scope="module", params=ROWS)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A model folder with a tokenizer, and transformers' own model with eager attention."""
    model_type, differences = ROWS[request.param]
    folder = tmp_path_factory.mktemp("family") / model_type
    model = make_model(folder, model_type, differences | {"vocab_size": VOCABULARY})
    train_tokenizer([LETTERS], VOCABULARY, folder, SIZES["max_position_embeddings"])
    return folder, model


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty documents of random letters."""
    letters = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "letters.txt"
    path.write_text("<|endoftext|>\n".join("".join(letters.choices(LETTERS, k=60)) + "\n" for _ in range(40)))
    return path


def tokens(rows: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).integers(0, VOCABULARY, (rows, LENGTH)))


def near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to 1e-5 of the largest value: sdpa and eager attention add in another order."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


def test_states_are_what_transformers_computes(family: Family) -> None:
    folder, model = family
    base = load_base(folder, device="cpu")
    with torch.no_grad():
        expected = model(tokens(3), output_hidden_states=True)
        states = base.states(tokens(3), SPLITS)
        for split in SPLITS:
            near(states.hidden[split], expected.hidden_states[split])
        near(states.final, expected.hidden_states[-1])
        near(base.head.logits(states.final), expected.logits)
        # The exit before the last layer starts as that layer and the final norm: the whole model again.
        (normed,) = build(base, SPLITS[-1:], "final").normed(states.hidden, states.context)
        near(base.head.logits(normed), expected.logits)


def test_bf16_keeps_hidden_states_in_fp32(family: Family) -> None:
    base = load_base(family[0], "bf16", "cpu")
    balconies = build(base, SPLITS, "final")
    states = base.states(tokens(2), SPLITS)
    with base.autocast():
        normed = balconies.normed(states.hidden, states.context)
    assert base.head.weight.dtype == torch.bfloat16
    for values in (*states.hidden.values(), states.final, *normed):
        assert values.dtype == torch.float32
        assert values.isfinite().all()


def test_trained_exits_are_the_exported_ones(family: Family, text: Path, tmp_path: Path) -> None:
    folder, _ = family
    trained_to, bundle_to = tmp_path / "exits", tmp_path / "bundle"
    options = f"--max-steps 3 --rows 2 --length {LENGTH} --lr 1e-2 --device cpu"
    splits = ",".join(map(str, SPLITS))
    invoke(train, str(folder), "--splits", splits, "--data", str(text), "-o", str(trained_to), *options.split())
    invoke(export, str(folder), "--exits", str(trained_to), "-o", str(bundle_to))
    trained = store.load(trained_to)
    base = load_base(folder, device="cpu")
    balconies = as_modules(base, trained)
    untrained = build(base, SPLITS, "final").state_dict()
    # The exit before the last layer starts without a loss, hence without a gradient.
    learning = {name: value for name, value in balconies.state_dict().items() if not name.startswith(f"{SPLITS[-1]}.")}
    unmoved = [name for name, value in learning.items() if torch.equal(value, untrained[name])]
    assert unmoved == []

    ladder = Ladder(Bundle(bundle_to), Runtime.start("cpu"))
    row = tokens(1)
    ladder.append(row[0].tolist())
    states = base.states(row, SPLITS)
    for split, normed in zip(SPLITS, balconies.normed(states.hidden, states.context), strict=True):
        np.testing.assert_allclose(ladder.logits(split), base.head.logits(normed)[0], rtol=0, atol=1e-4)
        # The gate head knows what a family does to its logits too.
        looked = predictions(normed[:, -1:], gate_head(base.head, trained.frequent_tokens))
        logit = Gate.of(trained.gate(split)).logits(*looked.confidence())
        assert ladder.gate(split) == pytest.approx(logit.item(), rel=1e-3, abs=1e-3)
        assert ladder.draft(split) == trained.frequent_tokens[int(looked.token)]


def test_a_norm_that_a_family_lacks_is_no_start(family: Family) -> None:
    base = load_base(family[0], device="cpu")
    if base.blueprint.arch.family == "olmo2":
        with pytest.raises(ModelError, match="olmo2 have no norm in front"):
            build(base, SPLITS, "layer")
    else:
        balconies = build(base, SPLITS, "layer")
        for split in SPLITS:
            assert torch.equal(balconies.at(split).norm.weight, base.model.model.layers[split].input_layernorm.weight)


def test_every_family_has_a_row() -> None:
    assert {model_type for model_type, _ in ROWS.values()} == FAMILIES.keys()
