"""ONNX Runtime found, missing, doubled or too old; providers asked for and not obtained."""

from __future__ import annotations

import importlib
import types
from pathlib import Path
from typing import Any

import pytest

from balcony_edge import AdaptiveSession, Bundle, BundleError, ProviderError, RuntimeMissingError
from balcony_edge.bundle.open import open_bundle
from balcony_edge.engine import runtime
from balcony_edge.engine.runtime import Runtime
from balcony_edge.telemetry import FakeSensors


def pretend(monkeypatch: pytest.MonkeyPatch, installed: list[str], module: object) -> None:
    """An environment with these distributions, where importing onnxruntime gives ``module`` (or raises it)."""

    def import_module(name: str) -> object:
        if isinstance(module, Exception):
            raise module
        return module

    monkeypatch.setattr(runtime, "installed_distributions", lambda: installed)
    monkeypatch.setattr(runtime.importlib, "import_module", import_module)


def test_no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [], ImportError("No module named 'onnxruntime'"))
    with pytest.raises(RuntimeMissingError, match=r"pip install 'balcony-edge\[gpu\]'"):
        runtime.onnxruntime()


def test_two_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, ["onnxruntime", "onnxruntime-gpu"], types.SimpleNamespace(__version__="1.32.0"))
    with pytest.raises(RuntimeMissingError, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        runtime.onnxruntime()


def test_an_old_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, ["onnxruntime"], types.SimpleNamespace(__version__="1.19.2"))
    with pytest.raises(RuntimeMissingError, match=r"1\.19\.2 is too old"):
        runtime.onnxruntime()


def test_this_environment_has_one_runtime() -> None:
    assert len(runtime.installed_distributions()) == 1
    assert runtime.onnxruntime() is importlib.import_module("onnxruntime")


def test_unknown_providers_and_late_thread_counts() -> None:
    with pytest.raises(ProviderError, match="choose one of auto, cpu, cuda"):
        Runtime.start("tpu")
    threads = Runtime.start("cpu").threads
    assert threads >= 1
    with pytest.raises(ProviderError, match="already runs"):
        Runtime.start("cpu", threads + 1)


def test_cuda_is_an_error_where_it_is_not_had() -> None:
    """Either this ONNX Runtime lacks the provider, or a session silently falls back: both must be said."""
    if runtime.has_nvidia_device():
        pytest.skip("this machine may really have CUDA")
    graph = Bundle.demo().manifest.head
    with pytest.raises(ProviderError, match="CUDA"):
        Runtime.start("cuda").session(Bundle.demo().file(graph.file))


def test_what_cuda_has_no_attention_for_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's attention knows no fp32: "auto" keeps away from it, and asking for it is an error, never wrong tokens."""
    ort, demo = runtime.onnxruntime(), Bundle.demo()
    monkeypatch.setattr(ort, "get_available_providers", lambda: list(runtime.PROVIDERS.values()))
    monkeypatch.setattr(runtime, "has_nvidia_device", lambda: True)
    assert demo.manifest.formats.activations == "fp32"
    assert Runtime.start("auto", formats=demo.manifest.formats).provider == "cpu"
    half = demo.manifest.formats.model_copy(update={"activations": "fp16"})
    assert Runtime.start("auto", formats=half).provider == "cuda"
    with pytest.raises(ProviderError, match=r"(?s)fp32 activations.*--provider cpu"):
        AdaptiveSession(demo, provider="cuda", sensors=FakeSensors())
    with AdaptiveSession(demo, sensors=FakeSensors()) as session:
        assert session.runtime.provider == "cpu"


def test_a_graph_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"broken\.onnx"):
        Runtime.start("cpu").session(path)


def test_stages_compute_in_an_arena_that_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = runtime.onnxruntime()
    Runtime.start("cpu")
    given: list[str] = []
    session = ort.InferenceSession

    def noted(path: str, options: Any, providers: list[str]) -> Any:
        given.append(options.get_session_config_entry("session.use_env_allocators"))
        return session(path, options, providers=providers)

    monkeypatch.setattr(ort, "InferenceSession", noted)
    bundle = open_bundle(None)
    Runtime.start("cpu").graph(bundle, bundle.manifest.head)
    assert given == ["1"]


def test_an_arena_may_have_been_registered_already() -> None:
    runtime.share_scratch(runtime.onnxruntime())
    runtime.share_scratch(runtime.onnxruntime())
