"""KV caches of 16 and 8 bits: what they cost, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnxruntime import __version__ as onnxruntime_version
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from balcony_edge.bundle.manifest import Cache
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import DataError, ModelError
from balcony_export.bundling.writer import export_bundle, plan_export, write_bundle
from balcony_export.graphs.formats import ExportOptions
from balcony_export.verification.measures import divergence, log_probabilities
from balcony_export.verification.verify import verify
from helpers.families import ROWS, SIZES, make_model

NEW = tuple(map(int, onnxruntime_version.split(".")[:2])) >= (1, 28)
needs_new = pytest.mark.skipif(not NEW, reason="this ONNX Runtime's attention takes no other cache")


def decoded(ladder: Ladder, ids: list[int], depth: int) -> np.ndarray:
    """Logits [positions, V] of one position a step: all that attention sees has been in the cache."""
    ladder.rewind(0)
    rows = []
    for token in ids:
        ladder.append([token])
        rows.append(ladder.next_logits(depth).copy())
    return np.stack(rows)


@needs_new
@pytest.mark.parametrize(("cache", "limit"), [("fp16", 1e-5), ("int8", 5e-2)])
@pytest.mark.parametrize("row", ["Llama 2", "Gemma 2", "Qwen3, q/k norm", "Phi-4-mini, longrope on part of a head"])
def test_a_narrow_cache_costs_little(row: str, cache: Cache, limit: float, tmp_path: Path) -> None:
    make_model(tmp_path / "model", *ROWS[row])
    rng = np.random.default_rng(8)
    words = Tokenizer(WordLevel({f"w{index}": index for index in range(SIZES["vocab_size"])}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    words.save(str(tmp_path / "model" / "tokenizer.json"))
    text = tmp_path / "text"
    text.write_text(" ".join(f"w{index}" for index in rng.integers(3, SIZES["vocab_size"], 60)))
    ladders = []
    for kept in ("fp32", cache):
        plan = plan_export(tmp_path / "model", exits="init", splits=[2], options=ExportOptions(cache=kept))
        shown = text if kept == "int8" else None
        bundle = write_bundle(plan, tmp_path / kept, model=row, cache_text=shown)
        assert plan.dry_run().weight_bytes == bundle.manifest.files["weights.bin"].bytes
        ladders.append(Ladder(bundle, Runtime.start("cpu")))
    assert bundle.manifest.minimum_onnxruntime == (1, 28)
    ids = rng.integers(3, SIZES["vocab_size"], 24).tolist()
    for depth in (2, 6):
        plain, narrow = (log_probabilities(decoded(ladder, ids, depth)) for ladder in ladders)
        lost = float(divergence(plain, narrow).mean())
        assert 0 < lost < limit
    assert ladders[1].trunk[0].cache_arrays()[0].dtype == {"fp16": np.float16, "int8": np.int8}[cache]


@needs_new
def test_an_int8_cache_is_bit_exact_in_any_batch(tiny_model: Path, tmp_path: Path) -> None:
    bundle = export_bundle(
        tiny_model, tmp_path / "b", model="t", exits="init", splits=[2], options=ExportOptions(cache="int8")
    )
    ladder = Ladder(bundle, Runtime.start("cpu"))
    ids = np.random.default_rng(8).integers(3, 288, 24).tolist()
    one_by_one = decoded(ladder, ids, ladder.full)
    ladder.rewind(0)
    ladder.append(ids)
    np.testing.assert_array_equal(ladder.logits(ladder.full), one_by_one)
    assert verify(bundle, tiny_model).passed


@needs_new
@pytest.mark.parametrize(
    ("content", "said"), [(b"", "has no words"), (b"\xff\xfe\xfa", "cannot read"), (None, "cannot")]
)
def test_a_text_without_use_leaves_nothing(tiny_model: Path, tmp_path: Path, content: bytes | None, said: str) -> None:
    text = tmp_path / "text"
    if content is not None:
        text.write_bytes(content)
    plan = plan_export(tiny_model, splits=[2], options=ExportOptions(cache="int8"))
    with pytest.raises(DataError, match=said):
        write_bundle(plan, tmp_path / "out" / "b", model="t", cache_text=text)
    assert not list(tmp_path.rglob("weights.bin"))


@pytest.mark.parametrize("options", [ExportOptions(cache="bf16"), ExportOptions("cuda", "fp16", cache="fp32")])
def test_a_cache_that_no_kernel_takes_is_refused(options: ExportOptions) -> None:
    with pytest.raises(ModelError, match="cannot keep a KV cache"):
        options.formats()
