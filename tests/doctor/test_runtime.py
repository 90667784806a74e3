"""Providers that work, fall back, crash, hang or lack a library."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from balcony_edge.doctor import probe as probing
from balcony_edge.doctor import runtime as examined
from balcony_edge.doctor.probe import Probed, probe
from balcony_edge.doctor.runtime import RuntimeFound, runtime_problems
from balcony_edge.errors import RuntimeMissingError
from balcony_profiles import Identity

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
WORKING_CPU = Probed(CPU, True, "0.1 ms")
DESKTOP, JETSON = Identity(nvml="NVIDIA RTX 1"), Identity(compatible="nvidia,p3767-0005 nvidia,tegra234")


def test_the_cpu_really_computes() -> None:
    probed = probe(CPU)
    assert probed.works, probed.detail
    assert probed.detail.endswith(" ms")


def test_a_provider_that_is_not_there_is_not_taken_for_the_one_in_its_place() -> None:
    probed = probe("NoSuchExecutionProvider")
    assert not probed.works
    assert probed.detail


def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, limit_s: float = 60.0) -> Probed:
    """What is made of a child that runs ``code`` in place of the probe."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{code}\n")
    script.chmod(0o755)
    monkeypatch.setattr(probing.sys, "executable", str(script))
    return probe(CUDA, limit_s)


def test_a_crash_is_an_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    probed = child(monkeypatch, tmp_path, "import os\nos.abort()")
    assert (probed.works, "signal 6" in probed.detail) == (False, True)


def test_a_hang_is_an_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    probed = child(monkeypatch, tmp_path, "import time\ntime.sleep(60)", limit_s=0.2)
    assert (probed.works, "did not answer" in probed.detail) == (False, True)


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = (
        "Failed to load library libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: "
        "cannot open shared object file: No such file or directory"
    )
    answer = probing._MARK + '{"works": false, "reason": "CPU in its place", "ms": 0}'
    probed = child(monkeypatch, tmp_path, f"import sys\nprint({said!r}, file=sys.stderr)\nprint({answer!r})")
    assert probed.missing == ("libcublasLt.so.13",)
    assert probed.detail == "libcublasLt.so.13 cannot be loaded"


def found(*probed: Probed) -> RuntimeFound:
    return RuntimeFound("1.23.2", ("onnxruntime-gpu",), probed, 4, "3.10.12")


@pytest.mark.parametrize(
    ("probed", "identity", "nvidia", "severity", "what", "then"),
    [
        ([WORKING_CPU], DESKTOP, True, "warning", "cannot use it", "pip install 'balcony-edge[gpu]'"),
        ([WORKING_CPU], JETSON, True, "warning", "cannot use it", "onnxruntime_gpu-*.whl"),
        (
            [WORKING_CPU, Probed(CUDA, False, "libcudnn.so.9 cannot be loaded", ("libcudnn.so.9",))],
            *(DESKTOP, True, "error", "libcudnn.so.9", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
        ),
        (
            [WORKING_CPU, Probed(CUDA, False, "libcudnn.so.9 cannot be loaded", ("libcudnn.so.9",))],
            *(JETSON, True, "error", "libcudnn.so.9", "apt-get install nvidia-jetpack"),
        ),
        (
            [WORKING_CPU, Probed(CUDA, False, "no kernel image is available for execution on the device")],
            *(JETSON, True, "error", "no kernel image", "onnxruntime_gpu-*.whl"),
        ),
        ([WORKING_CPU, Probed(CUDA, False, "driver")], DESKTOP, True, "error", "driver", "nvidia-smi"),
        ([Probed(CPU, False, "signal 4")], Identity(), False, "error", "signal 4", "--force-reinstall"),
        ([], Identity(), False, "error", "not listed", "--force-reinstall"),
        ([Probed(CPU, None, "no child")], Identity(), False, "warning", "unknown: no child", "balcony-edge run"),
        ([WORKING_CPU, Probed("XProvider", False, "bad")], Identity(), False, "info", "XProvider", "nothing"),
    ],
)
def test_every_problem_has_its_command(
    probed: list[Probed], identity: Identity, nvidia: bool, severity: str, what: str, then: str
) -> None:
    (problem,) = runtime_problems(found(*probed), identity, nvidia)
    assert problem.severity.word == severity
    assert what in problem.what
    assert then in problem.next


def test_a_runtime_that_works_has_no_problem() -> None:
    assert runtime_problems(found(WORKING_CPU), Identity(), False) == []
    assert runtime_problems(found(WORKING_CPU, Probed(CUDA, True, "0.2 ms")), DESKTOP, True) == []


def test_two_builds_over_each_other_are_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ["onnxruntime", "onnxruntime-gpu"]
    monkeypatch.setattr(examined, "installed_distributions", lambda: both)
    monkeypatch.setattr("balcony_edge.engine.runtime.installed_distributions", lambda: both)
    runtime, problems = examined.examine_runtime(Identity())
    assert (runtime.version, runtime.distributions) == (None, tuple(both))
    assert [problem.severity.word for problem in problems] == ["error"]
    assert "overwrite each other" in problems[0].what
    assert problems[0].next.startswith("pip uninstall -y onnxruntime onnxruntime-gpu && pip install")


def test_no_runtime_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> object:
        raise RuntimeMissingError("ONNX Runtime is not installed", "pip install 'balcony-edge[cpu]'")

    monkeypatch.setattr(examined, "onnxruntime", missing)
    _, problems = examined.examine_runtime(Identity())
    assert [(problem.severity.word, problem.next) for problem in problems] == [
        ("error", "pip install 'balcony-edge[cpu]'")
    ]
