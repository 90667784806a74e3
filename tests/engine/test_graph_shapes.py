"""Manifests that do not fit their graphs are refused before memory is made; what fails in a run is explained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from balcony_edge import AdaptiveSession, Bundle, BundleError
from balcony_edge.engine.caller import Caller
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import BalconyError, PromptError
from helpers.command import fails, here

Content = dict[str, Any]


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Callable[[Content], object]], Path]:
    """The demo's folder after a change of its manifest."""

    def make(change: Callable[[Content], object]) -> Path:
        folder = Path(shutil.copytree(Bundle.demo().path, tmp_path / "bundle"))
        content = json.loads((folder / "balcony.json").read_text())
        change(content)
        (folder / "balcony.json").write_text(json.dumps(content))
        return folder

    return make


def sizes(**values: Any) -> Callable[[Content], object]:
    return lambda content: content["architecture"].update(values)


def graph(index: int, **values: Any) -> Callable[[Content], object]:
    return lambda content: content["graphs"][index].update(values)


def formats(**values: Any) -> Callable[[Content], object]:
    return lambda content: content["formats"].update(values)


DRAFT = {"kind": "draft", "file": "exit_3.onnx", "start": 12, "stop": 12, "caches": 1}
# What contradicts the graphs, and the tensor that says so. The graphs: four segments, three exits, the head.
CONTRADICTIONS = [
    (sizes(hidden=129), "hidden_out is"),
    (sizes(vocabulary=2049), "logits is"),
    (sizes(kv_heads=4), "past_key.0 is"),
    (sizes(head_dim=64), "past_key.0 is"),
    (formats(activations="fp16"), "hidden_out is"),
    (formats(cache="int8"), "past_key.0 is"),
    (graph(0, file="exit_3.onnx"), "takes no input_ids"),
    (graph(1, file="segment_0_3.onnx"), "takes no hidden"),
    (graph(7, file="exit_3.onnx"), "takes past_key.0|takes seqlens_k|gives no logits|which nobody knows"),
    (graph(4, file="head.onnx"), "takes no past_key.0"),
    (graph(0, caches=2), "takes past_key.2, which nobody knows"),
    (graph(4, gate=False), "gives gate, which nobody knows"),
    (graph(4, caches=0), "takes past_key.0, which nobody knows"),
    (lambda content: content["graphs"].append(DRAFT), "takes no input_ids"),
]


@pytest.mark.parametrize(("change", "words"), CONTRADICTIONS)
def test_a_manifest_that_contradicts_its_graphs(
    changed: Callable[..., Path], change: Callable[[Content], object], words: str
) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        AdaptiveSession(changed(change))
    assert caught.value.hint


# Numbers that no model has, and where they stand.
BEYOND = [
    (sizes(kv_heads=10**15), "kv_heads"),
    (sizes(hidden=1 << 40), "hidden"),
    (sizes(vocabulary=1 << 60), "vocabulary"),
    (sizes(context=1 << 62), "context"),
    (graph(3, caches=10**9), "caches"),
    (graph(3, caches=4), "caches"),
    (graph(7, caches=1), "caches"),
    (graph(0, weight_bytes=-1), "weight_bytes"),
    (graph(0, stop=10**9), "stop"),
    (formats(block_size=0), "block_size"),
    (lambda content: content["quality"]["3"].update(kl_nats=1e300), "kl_nats"),
    (lambda content: content["quality"]["3"]["judge"].update(top=-1e300), "top"),
    (lambda content: content["quality"]["3"]["bins"].update(edges=[0.5] * 10_000), "edges"),
    (lambda content: content["quality"]["3"]["bins"]["agreement"].pop("9"), "tell nothing of a deeper exit"),
    (lambda content: content["generation"].update(bos_token_id=-7), "bos_token_id"),
    (lambda content: content["base"].update(model="x" * 100_000), "model"),
    (lambda content: content.update({"\x1b]0;owned\x07": 1}), r"\\x1b\]0;owned\\x07"),
]


@pytest.mark.parametrize(("change", "words"), BEYOND)
def test_numbers_that_no_model_has(
    changed: Callable[..., Path], change: Callable[[Content], object], words: str
) -> None:
    folder = changed(change)
    with pytest.raises(BundleError, match=words):
        Bundle(folder)
    fails(here("inspect", str(folder)), "balcony.json")


def test_caches_that_fit_no_memory_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.demo()
    free = Ladder(bundle, Runtime.start("cpu")).footprint.total(0) + (129 << 20)
    monkeypatch.setattr("balcony_edge.engine.ladder.available_bytes", lambda: free)
    wide = bundle.manifest.architecture.model_copy(update={"kv_heads": 4096, "head_dim": 1 << 14})
    bundle.manifest = bundle.manifest.model_copy(update={"architecture": wide})
    with pytest.raises(PromptError, match="of memory"):
        Ladder(bundle, Runtime.start("cpu"))


def test_a_graph_that_fails_in_a_run_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shapes may lie: ONNX Runtime then finds out in the middle of a reply."""

    def broken(*_: Any) -> None:
        raise RuntimeError("Got invalid dimensions for output\nmore lines")

    with AdaptiveSession() as session:
        for caller in (stage._call for stage in session.ladder.stages):
            assert isinstance(caller, Caller)
            monkeypatch.setattr(caller, "_run", broken)
        with pytest.raises(BalconyError, match="cannot run a graph of this bundle: Got invalid dimensions") as caught:
            session.generate("Once", 2)
    assert caught.value.hint
