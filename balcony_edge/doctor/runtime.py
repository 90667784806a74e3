"""Examines ONNX Runtime on this machine: which builds are installed, and which of their providers really work."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from balcony_edge.doctor.probe import Probed, probe
from balcony_edge.doctor.problem import Problem, Severity
from balcony_edge.engine.runtime import (
    PROVIDERS,
    default_threads,
    has_nvidia_device,
    installed_distributions,
    onnxruntime,
)
from balcony_edge.errors import RuntimeMissingError
from balcony_profiles import Identity

# This provider sends its inputs to a server, so it is none of this device.
_REMOTE = "AzureExecutionProvider"
_GPU_BUILD = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'balcony-edge[gpu]'"
_JETSON_BUILD = (
    "pip uninstall -y onnxruntime onnxruntime-gpu && pip install ./onnxruntime_gpu-*.whl   "
    "(NVIDIA's wheel for this JetPack and Python)"
)


@dataclass(frozen=True, slots=True)
class RuntimeFound:
    """What was found. ``version`` is ``None`` if no ONNX Runtime can be used; ``threads``: what a session would use."""

    version: str | None
    distributions: tuple[str, ...]
    providers: tuple[Probed, ...]
    threads: int
    python: str


def examine_runtime(identity: Identity) -> tuple[RuntimeFound, list[Problem]]:
    """Test every local provider; returns what was found and the problems. Each test takes a child process, 1 to 2 s."""
    distributions = tuple(installed_distributions())
    found = RuntimeFound(None, distributions, (), default_threads(), platform.python_version())
    try:
        ort = onnxruntime()
    except RuntimeMissingError as error:
        return found, [Problem(Severity.ERROR, error.message, error.hint)]
    names = [name for name in ort.get_available_providers() if name != _REMOTE]
    nvidia = has_nvidia_device() or bool(identity.nvml) or identity.jetson
    if not nvidia:
        # A GPU build on a machine without an NVIDIA GPU is not broken: its CUDA provider just cannot be tested.
        names = [name for name in names if name not in (PROVIDERS["cuda"], "TensorrtExecutionProvider")]
    probed = tuple(probe(name) for name in names)
    found = RuntimeFound(ort.__version__, distributions, probed, found.threads, found.python)
    return found, runtime_problems(found, identity, nvidia)


def runtime_problems(found: RuntimeFound, identity: Identity, nvidia: bool) -> list[Problem]:
    """The problems of a runtime that can be imported. ``nvidia``: whether there is a GPU for CUDA."""
    problems = []
    tried = {probed.provider: probed for probed in found.providers}
    build = _JETSON_BUILD if identity.jetson else _GPU_BUILD
    cuda, cpu = tried.get(PROVIDERS["cuda"]), tried.get(PROVIDERS["cpu"])
    if nvidia and cuda is None:
        what = f"there is an NVIDIA GPU, but this ONNX Runtime ({', '.join(found.distributions)}) cannot use it"
        problems.append(Problem(Severity.WARNING, what, build))
    elif cuda is not None and cuda.works is False:
        what = f"CUDA is listed but does not work: {cuda.detail}"
        if cuda.missing and identity.jetson:
            then = "sudo apt-get install nvidia-jetpack"
        elif cuda.missing:
            then = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        elif "no kernel image" in cuda.detail or identity.jetson:
            then = build  # the wheel holds no code for this GPU
        else:
            then = (
                "nvidia-smi   (does the driver answer?), then compare its CUDA version with what onnxruntime-gpu needs"
            )
        problems.append(Problem(Severity.ERROR, what, then))
    if cpu is not None and cpu.works is None:
        what = f"whether ONNX Runtime computes is unknown: {cpu.detail}"
        problems.append(Problem(Severity.WARNING, what, "balcony-edge run -p 'Once upon a time' -n 4   (tries it)"))
    elif cpu is None or not cpu.works:
        detail = "it is not listed" if cpu is None else cpu.detail
        package = found.distributions[0] if found.distributions else "onnxruntime"
        then = f"pip install --force-reinstall {package}"
        problems.append(Problem(Severity.ERROR, f"ONNX Runtime does not compute on the CPU: {detail}", then))
    for probed in found.providers:
        if probed.provider not in PROVIDERS.values() and probed.works is False:
            what = f"{probed.provider} is listed but does not work: {probed.detail}; balcony-edge does not use it"
            problems.append(Problem(Severity.INFO, what, "nothing, unless another program needs it"))
    return problems
