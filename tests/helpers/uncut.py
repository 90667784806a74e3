"""transformers' own model of a checkpoint: what every cut of it is measured against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


def reference(folder: Path) -> Any:
    """transformers' own model of a checkpoint, fp32."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def reference_logits(model: Any, tokens: list[int]) -> np.ndarray:
    """Logits [positions, V] of the uncut model."""
    import torch

    with torch.inference_mode():
        return np.asarray(model(input_ids=torch.tensor([tokens])).logits[0])
