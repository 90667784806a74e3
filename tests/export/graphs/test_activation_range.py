"""Models whose hidden states are too large for fp16 are not exported to formats that compute in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from balcony_edge.errors import ModelError
from balcony_export.bundling.writer import export_bundle
from balcony_export.graphs.formats import ExportOptions


def with_large_states(tiny_model: Path, folder: Path, factor: float) -> Path:
    """The model with an MLP in its second layer that gives that many times as much."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    for part in ("up", "down"):
        name = f"model.layers.1.mlp.{part}_proj.weight"
        weights[name] = (weights[name] * factor**0.5).astype(np.float32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("options", [ExportOptions("cuda", "fp16"), ExportOptions("cuda", "int4", cache="int8")])
@pytest.mark.parametrize(("factor", "said"), [(20_000.0, "reach"), (200_000.0, "overflow")])
def test_states_beyond_fp16_are_refused(
    tiny_model: Path, tmp_path: Path, options: ExportOptions, factor: float, said: str
) -> None:
    model = with_large_states(tiny_model, tmp_path / "model", factor)
    with pytest.raises(ModelError, match="hidden states") as refused:
        export_bundle(model, tmp_path / "out", model="m", splits=[2], options=options)
    assert "bf16" in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [ExportOptions("cuda", "bf16"), ExportOptions("cpu", "fp16")])
def test_formats_that_hold_them_are_not(tiny_model: Path, tmp_path: Path, options: ExportOptions) -> None:
    model = with_large_states(tiny_model, tmp_path / "model", 200_000.0)
    export_bundle(model, tmp_path / "out", model="m", splits=[2], options=options)


def test_ordinary_states_are_not(tiny_model: Path, tmp_path: Path) -> None:
    export_bundle(tiny_model, tmp_path / "out", model="m", splits=[2], options=ExportOptions("cuda", "fp16"))
