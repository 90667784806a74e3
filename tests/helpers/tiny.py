"""The small models that many tests run: a random Llama with untrained exits, and the demo's checkpoint at fp32.

They are made by the workstation's side, which imports torch. Where that is missing (a device), tests that ask skip,
unless the bundles were made elsewhere, see helpers.once.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from balcony_edge.bundle.manifest import Exactness, Precision
from helpers.places import DEMO_BASE, DEMO_EXITS

SPLITS = [1, 2, 4]
MODEL, DEMO, GUESSING = "tiny", "demo", "guessing"
"""Their names for helpers.once."""


def name(precision: Precision, exactness: Exactness) -> str:
    """The name of the tiny model's bundle."""
    return f"{MODEL}-{precision}-{exactness}"


def make_model(folder: Path) -> None:
    """A random Llama of 5 layers that fuses rope (heads of 16), with a toy tokenizer, as the model folder ``base``."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from balcony_export.demo.tokenizer import train_tokenizer

    config = transformers.LlamaConfig(
        vocab_size=288,
        hidden_size=64,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=96,
        max_position_embeddings=96,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
    )
    base = folder / "base"
    base.mkdir(parents=True)
    train_tokenizer(["the quick brown fox jumps over the lazy dog"] * 3, 288, base, 96)
    torch.manual_seed(7)
    transformers.LlamaForCausalLM(config).save_pretrained(base)


def make_bundle(model: Path, precision: Precision, exactness: Exactness, folder: Path) -> None:
    """A bundle of the tiny model with untrained exits at SPLITS."""
    pytest.importorskip("torch")
    from balcony_export.bundling.writer import export_bundle
    from balcony_export.graphs.formats import ExportOptions

    options = ExportOptions(precision=precision, exactness=exactness)
    export_bundle(model, folder, model=str(model), exits="init", splits=SPLITS, options=options)


def make_guessing(model: Path, precision: Precision, folder: Path) -> None:
    """A bundle of the tiny model with random exits at 1 and 2, and a random draft stage."""
    pytest.importorskip("torch")
    from balcony_controller.shape import DRAFT
    from balcony_export.bundling.writer import export_bundle
    from balcony_export.exits import store
    from balcony_export.exits.draft import stage_of, untrained
    from balcony_export.graphs.formats import ExportOptions
    from balcony_export.model.base import load_base

    splits = (1, 2)
    stage = stage_of(untrained(load_base(model, device="cpu")))
    weights = guessing_weights(stage)
    tensors = {f"exits.{DRAFT}.{name}": value for name, value in weights.items()}
    own = ("state_norm", "token_norm", "join")
    for split in splits:
        tensors |= {f"exits.{split}.{name}": value for name, value in weights.items() if not name.startswith(own)}
        tensors |= {f"gates.{split}.{name}": np.zeros(shape) for name, shape in store.GATE_SHAPES.items()}
    bins = {"edges": [], "share": [1.0], "agreement": {str(split): [0.5] for split in splits}}
    measured = {str(split): {"agreement": 0.5, "kl_nats": 1.0, "bins": bins} for split in splits}
    exits = store.Exits(
        splits=splits,
        base_model=MODEL,
        base_sha256=store.base_digest(model),
        training={},
        quality={"exits": measured, DRAFT: {"accepted": [0.25, 0.5]}},
        tensors={name: value.astype(np.float32) for name, value in tensors.items()},
        frequent_tokens=tuple(range(0, 288, 2)),
    )
    with TemporaryDirectory() as saved:
        store.save(Path(saved), exits)
        options = ExportOptions(precision=precision, exactness="bit")
        export_bundle(model, folder, model=str(model), exits=Path(saved), options=options)


def guessing_weights(stage: Any) -> dict[str, np.ndarray]:
    """The weights of an untrained draft stage of the tiny model, each moved by chance."""
    rng = np.random.default_rng(11)
    values = {name: value.detach().numpy() for name, value in stage.state_dict().items()}
    return {name: (value + rng.normal(0, 0.1, value.shape)).astype(np.float32) for name, value in values.items()}


def make_demo(folder: Path) -> None:
    """The demo's base and trained exits, exported with nothing chosen: fp32."""
    pytest.importorskip("torch")
    from balcony_export.bundling.writer import export_bundle

    export_bundle(DEMO_BASE, folder, model="demo", exits=DEMO_EXITS)
