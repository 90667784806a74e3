"""Layers cut at their linear maps, and channels scaled: both compute what transformers does, for every family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from balcony_export.graphs.layers import EMBEDDING
from balcony_export.model import architectures
from balcony_export.model.checkpoint import TensorSource
from balcony_export.model.tensor_source import open_checkpoint
from balcony_export.quantising import streamed_head
from balcony_export.quantising.balance import balance
from balcony_export.quantising.layer_parts import LayerParts
from balcony_export.quantising.prepare import matrix_shapes
from balcony_export.quantising.streamed_head import StreamedHead, divergences
from helpers.families import ROWS, make_model

IDS = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26]


def logits_in_parts(folder: Path, base: TensorSource) -> np.ndarray:
    blueprint = architectures.read(folder)
    shapes = matrix_shapes(blueprint)
    hidden = base.tensor(f"{EMBEDDING}.weight")[IDS][None] * np.float32(blueprint.embedding_scale)
    for index in range(blueprint.arch.layers):
        layer = LayerParts(blueprint, base, index)
        assert {one.name: one.weight.shape for one in layer.maps}.items() <= shapes.items()
        values = layer.start(hidden)
        for part in range(layer.count):
            assert len({one.input for one in layer.maps_of(part)}) <= 1
            assert all(one.input in values for one in layer.maps_of(part))
            values = layer.runner(part)(values)
        hidden = layer.end(values)
    head = StreamedHead(blueprint, base)
    return np.concatenate([logits(head.normed(hidden[0])) for logits in head.blocks()], axis=1)


@pytest.mark.parametrize("name", ROWS)
def test_parts_and_scaled_channels_compute_the_model(name: str, tmp_path: Path) -> None:
    model = make_model(tmp_path, *ROWS[name])
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    base = open_checkpoint(tmp_path)
    np.testing.assert_allclose(logits_in_parts(tmp_path, base), expected, atol=1e-4 * np.abs(expected).max())
    blueprint, random = architectures.read(tmp_path), np.random.default_rng(0)
    importance = {
        matrix: random.exponential(3.0, shape[1]).astype(np.float32)
        for matrix, shape in matrix_shapes(blueprint).items()
    }
    scaled = balance(blueprint, base, importance)
    np.testing.assert_allclose(logits_in_parts(tmp_path, scaled), expected, atol=2e-4 * np.abs(expected).max())


def test_scaled_channels_change_the_weights_and_only_in_some_tensors(tmp_path: Path) -> None:
    make_model(tmp_path, *ROWS["Gemma 3"])
    base, blueprint = open_checkpoint(tmp_path), architectures.read(tmp_path)
    ones = {matrix: np.ones(shape[1], np.float32) for matrix, shape in matrix_shapes(blueprint).items()}
    scaled = balance(blueprint, base, ones)
    kept = {name for name in base.names() if np.array_equal(base.tensor(name), scaled.tensor(name))}
    assert "model.norm.weight" in kept
    assert "model.embed_tokens.weight" in kept
    assert "model.layers.0.self_attn.q_norm.weight" in kept
    assert "model.layers.0.self_attn.q_proj.weight" not in kept
    name = "model.layers.2.mlp.up_proj.weight"
    np.testing.assert_array_equal(scaled.rows(name, 5, 9), scaled.tensor(name)[5:9])


@pytest.mark.parametrize("rows", [7, 10_000])
def test_divergences_are_those_of_whole_distributions(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed_head, "ROWS", rows)
    make_model(tmp_path, *ROWS["Gemma 3"])
    base, blueprint = open_checkpoint(tmp_path), architectures.read(tmp_path)
    random = np.random.default_rng(1)
    states = random.normal(size=(5, blueprint.arch.hidden)).astype(np.float32)
    others = [states, states + np.float32(0.03), random.normal(size=states.shape).astype(np.float32)]
    head = StreamedHead(blueprint, base)

    def log_shares(one: np.ndarray) -> torch.Tensor:
        logits = np.concatenate([block(head.normed(one)) for block in head.blocks()], axis=1)
        return torch.log_softmax(torch.from_numpy(logits).double(), -1)

    log_p = log_shares(states)
    expected = [(log_p.exp() * (log_p - log_shares(one))).sum(-1).mean().item() for one in others]
    assert divergences(head, [states, *others]) == pytest.approx(expected, rel=1e-4, abs=1e-7)
