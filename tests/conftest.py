"""Shared fixtures: a tiny random Llama with exits, its bundles, and the optional shared checkpoints."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import Exactness, Precision
from helpers.places import SHARED, MakeBundle

# Deadlines measure the machine, not the code.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrations of tests stay out of the user's cache; one folder for all, so that each bundle pays once."""
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr("balcony_edge.control.stage_times.LIMIT_S", 0.0)
    monkeypatch.setattr("balcony_edge.control.profile.MOST_DISAGREEMENT", math.inf)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 5 layers that fuses rope (heads of 16), with a toy tokenizer, as a model folder."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from balcony_export.demo.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "base"
    train_tokenizer(["the quick brown fox jumps over the lazy dog"] * 3, 288, folder, 96)
    torch.manual_seed(7)
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
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bundles(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """Bundles of the tiny model with untrained exits at 1, 2 and 4, made once per precision and exactness."""
    from balcony_export.bundling.writer import export_bundle
    from balcony_export.graphs.formats import ExportOptions

    made: dict[tuple[Precision, Exactness], Bundle] = {}

    def make(precision: Precision, exactness: Exactness) -> Bundle:
        key = (precision, exactness)
        if key not in made:
            out = tmp_path_factory.mktemp("bundles") / f"{precision}-{exactness}"
            made[key] = export_bundle(
                tiny_model,
                out,
                model=str(tiny_model),
                exits="init",
                splits=[1, 2, 4],
                options=ExportOptions(precision=precision, exactness=exactness),
            )
        return made[key]

    return make


@pytest.fixture(scope="session")
def stories260k() -> Path:
    """A real small checkpoint beside the project, where there is one."""
    folder = SHARED / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("the shared checkpoint stories260K is not here")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """Fixed randomness."""
    return np.random.default_rng(20250305)
