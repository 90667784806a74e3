"""Families without graphs of their own: traced by torch's exporter, equal to the model or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import BalconyError, ModelError, VerifyError
from helpers.families import SIZES, make_model

pytest.importorskip("onnxscript")
# torch's exporter, of its own parts.
pytestmark = pytest.mark.filterwarnings("ignore")
TRACED = [
    "starcoder2",  # LayerNorm with biases, an MLP without a gate
    "cohere",  # attention and MLP side by side, scaled logits
]


@pytest.mark.long
@pytest.mark.parametrize("family", TRACED)
def test_traced_segments_and_exits_equal_transformers(family: str, tmp_path: Path) -> None:
    from balcony_export.bundling.torch_bundle import export_through_torch

    model = make_model(tmp_path / "model", family, {"num_hidden_layers": 2})
    out = tmp_path / "b"
    bundle, found = export_through_torch(tmp_path / "model", out, model=family, init_exits=True, splits=[1])
    assert found.passed
    assert {row.stage for row in found.rows} >= {"segment 0-1", "exit 1", "head", "full", "greedy"}
    ladder = Ladder(bundle, Runtime.start("cpu"))
    ids = np.random.default_rng(5).integers(3, SIZES["vocab_size"], 30).tolist()
    with torch.inference_mode():
        expected = model(torch.tensor([ids]), output_hidden_states=True)
    # Prefill of 10, then one by one, with one exit that lags behind and catches up.
    ladder.append(ids[:10])
    for token in ids[10:]:
        ladder.next_logits(ladder.full)
        ladder.append([token])
    np.testing.assert_allclose(ladder.logits(ladder.full), expected.logits[0], rtol=0, atol=1e-4)
    # The exit before the last layer is the whole model again.
    np.testing.assert_allclose(ladder.logits(1), expected.logits[0], rtol=0, atol=1e-4)
    # The exits are copies: their weights have the base's home.
    checkpoint = sum(path.stat().st_size for path in (tmp_path / "model").glob("*.safetensors"))
    assert (out / "weights.bin").stat().st_size < 1.6 * checkpoint


def test_a_model_that_comes_out_wrong_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from balcony_export.bundling.torch_bundle import export_through_torch
    from balcony_export.graphs import torch_graphs

    make_model(tmp_path / "model", "stablelm", {"num_hidden_layers": 2})
    forward = torch_graphs.HeadModule.forward
    monkeypatch.setattr(torch_graphs.HeadModule, "forward", lambda self, x: forward(self, x) * 1.01)
    with pytest.raises(VerifyError, match="head is the first stage that fails"):
        export_through_torch(tmp_path / "model", tmp_path / "out" / "b", model="m", splits=[1])
    assert not list(tmp_path.rglob("weights.bin"))


@pytest.mark.parametrize(
    ("family", "differences", "said"),
    [
        ("gpt_neox", {}, "no list of layers and one norm"),
        ("cohere2", {"sliding_window": 8}, "layers of sliding_attention"),
        ("llama", {}, "graphs of their own"),
    ],
)
def test_what_pieces_cannot_hold_is_refused(family: str, differences: dict, said: str, tmp_path: Path) -> None:
    from balcony_export.bundling.torch_bundle import export_through_torch

    make_model(tmp_path / "model", family, differences)
    with pytest.raises(ModelError, match=said):
        export_through_torch(tmp_path / "model", tmp_path / "b", model="m")
    assert not (tmp_path / "b").exists()


def test_a_window_bounds_the_context(tmp_path: Path) -> None:
    from balcony_export.bundling.torch_bundle import export_through_torch

    make_model(tmp_path / "model", "starcoder2", {"sliding_window": 40})
    with pytest.raises(ModelError, match="exact to 40 positions, not 100"):
        export_through_torch(tmp_path / "model", tmp_path / "b", model="m", context=100)


def test_an_unknown_family_is_told_of_both_ways(tmp_path: Path) -> None:
    from balcony_export.bundling.writer import plan_export

    make_model(tmp_path / "model", "stablelm", {})
    with pytest.raises(BalconyError) as caught:
        plan_export(tmp_path / "model")
    assert "Gemma 2 (gemma2)" in caught.value.hint
    assert "--through-torch" in caught.value.hint
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "no-such-thing"}))
    with pytest.raises(BalconyError, match="no-such-thing"):
        plan_export(tmp_path / "model")
