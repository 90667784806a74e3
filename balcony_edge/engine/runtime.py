"""ONNX Runtime: the installed distribution, the provider that runs, and what all its sessions share."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import resource
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import Formats, Graph
from balcony_edge.engine.attention import same_attention
from balcony_edge.engine.graph_shapes import check_graph
from balcony_edge.engine.pages.heap import return_freed_memory
from balcony_edge.engine.pages.huge_pages import huge_pages
from balcony_edge.errors import BundleError, ProviderError, RuntimeMissingError
from balcony_edge.system import control_group

# Distributions that install the folder ``onnxruntime``. NVIDIA's Jetson wheels are called onnxruntime-gpu too.
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
MINIMUM_VERSION = (1, 23)
# What CUDA's attention computes with (ONNX Runtime 1.31). For fp32 it falls back to the CPU in silence, where inputs
# that were bound once on the GPU are not copied again: wrong tokens, seen on an H200.
CUDA_ACTIVATIONS = ("fp16", "bf16")
# So many threads may be asked for on any machine.
MOST_THREADS = 64
# From this version on, a sliding window of attention counts the token itself.
WINDOW_COUNTS_ITSELF = (1, 24)

_pool_threads: int | None = None


def installed_distributions() -> list[str]:
    """The names of the ONNX Runtime distributions that are installed in this environment."""
    found = []
    for name in DISTRIBUTIONS:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


def onnxruntime() -> Any:
    """The module ``onnxruntime``, imported at first use.

    Raises RuntimeMissingError, with the pip line that helps, if it is missing, too old or installed twice.
    """
    found = installed_distributions()
    if len(found) > 1:
        raise RuntimeMissingError(
            "onnxruntime and onnxruntime-gpu are both installed; they overwrite each other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'balcony-edge[gpu]'   ([cpu] without a GPU)",
        )
    try:
        module = importlib.import_module("onnxruntime")
        version = installed_version(module)
    except MemoryError as error:
        raise _too_little_memory(error) from error
    except (ImportError, AttributeError) as error:
        if found and resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            raise _too_little_memory(error) from error
        raise RuntimeMissingError(
            f"ONNX Runtime is not installed ({error})",
            "pip install 'balcony-edge[gpu]'   (on a Jetson NVIDIA's own wheel; without a GPU: 'balcony-edge[cpu]')",
        ) from error
    if version < MINIMUM_VERSION:
        raise RuntimeMissingError(
            f"ONNX Runtime {module.__version__} is too old; balcony-edge needs 1.23 or newer",
            f"pip install --upgrade {found[0] if found else 'onnxruntime'}",
        )
    return module


def _too_little_memory(error: BaseException) -> RuntimeMissingError:
    return RuntimeMissingError(
        f"ONNX Runtime cannot be loaded within this process's limit of memory ({error})",
        "raise the limit (ulimit -v unlimited): it counts address space, of which libraries reserve far more than they "
        "use",
    )


def preload_cuda(ort: Any) -> str:
    """Load the CUDA libraries that pip has installed: no search path of the system has them.

    Returns what ONNX Runtime prints about libraries that are missing. Builds without CUDA have nothing to load; a
    second call changes nothing.
    """
    said = io.StringIO()
    if hasattr(ort, "preload_dlls"):
        # It prints to stdout, which is for answers. A missing library is noticed when a session needs it.
        with contextlib.redirect_stdout(said), contextlib.suppress(Exception):
            ort.preload_dlls()
    return said.getvalue()


def share_scratch(ort: Any) -> None:
    """Make all CPU sessions share one arena for their intermediate results.

    Sessions run one after the other, but each would keep an arena of its own, as large as its longest prompt needed.
    """
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(info, ort.OrtArenaCfg(0, -1, -1, -1))


def default_threads() -> int:
    """The number of physical cores that this process may use. More threads would only wait for each other.

    A container's share of processor time counts too, rounded down: once it is used up, all threads stand still.
    """
    import psutil

    process = psutil.Process()
    allowed = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count()
    counts = [psutil.cpu_count(logical=False) or 1, allowed or 1]
    if (quota := control_group.processors()) is not None:
        counts.append(int(quota))
    return max(1, min(counts))


def check_threads(threads: int | None) -> None:
    """Raise ProviderError for more threads than could be of any use here: the system may not even start them."""
    most = max(MOST_THREADS, 2 * (os.cpu_count() or 1))
    if threads is not None and not 1 <= threads <= most:
        raise ProviderError(
            f"{threads} threads were asked for; this machine has {os.cpu_count()} processors",
            "leave --threads out for one thread per core",
        )


@dataclass(frozen=True)
class Runtime:
    """How sessions are made: on which provider ("cpu" or "cuda"), and with how many threads in the shared pool."""

    provider: str
    threads: int

    @classmethod
    def start(cls, provider: str = "auto", threads: int | None = None, formats: Formats | None = None) -> Runtime:
        """Choose a provider, and set up the thread pool and scratch memory that all sessions of the process share.

        Args:
            provider: "cpu", "cuda", or "auto": CUDA if the installed runtime lists it, there is an NVIDIA device and
                CUDA computes with the bundle's ``formats``.
            threads: size of the pool; None means one per physical core. The pool is made once per process.
            formats: those of the bundle that will run; None: not known yet.

        Raises:
            ProviderError: the provider is unknown or not available, or the pool already has another size.
            RuntimeMissingError: ONNX Runtime cannot be used.
        """
        global _pool_threads
        check_threads(threads)
        ort = onnxruntime()
        if provider not in (*PROVIDERS, "auto"):
            raise ProviderError(f"unknown provider {provider!r}", f"choose one of auto, {', '.join(PROVIDERS)}")
        if provider == "cuda" and PROVIDERS["cuda"] not in ort.get_available_providers():
            raise ProviderError(
                f"this ONNX Runtime has no CUDA provider (it has {', '.join(ort.get_available_providers())})",
                "pip uninstall -y onnxruntime && pip install 'balcony-edge[gpu]'",
            )
        if provider == "auto":
            fits = formats is None or formats.activations in CUDA_ACTIVATIONS
            is_there = PROVIDERS["cuda"] in ort.get_available_providers() and has_nvidia_device()
            provider = "cuda" if fits and is_there else "cpu"
        if provider == "cuda":
            if formats is not None:
                _check_attention(formats)
            preload_cuda(ort)
        if _pool_threads is None:
            _pool_threads = threads or default_threads()
            # With a pool per session, the threads of one segment spin while the next one runs (3.5x slower).
            ort.set_global_thread_pool_sizes(_pool_threads, 1)
            share_scratch(ort)
        elif threads not in (None, _pool_threads):
            raise ProviderError(
                f"this process already runs ONNX Runtime with {_pool_threads} threads, not {threads}",
                "choose the threads before the first session of the process",
            )
        return cls(provider, _pool_threads)

    def graph(self, bundle: Bundle, graph: Graph) -> Any:
        """An ONNX Runtime session for one graph of a bundle, from the file that fits the installed version.

        Raises:
            ProviderError: this provider cannot compute with the bundle's formats, or it needs a newer version.
            BundleError: the graph cannot be loaded.
        """
        formats, minimum, version = bundle.manifest.formats, bundle.manifest.minimum_onnxruntime, installed_version()
        if version < minimum:
            raise ProviderError(
                f"{bundle.path} needs ONNX Runtime {minimum[0]}.{minimum[1]} or newer for its {formats.cache} KV cache;"
                f" this is {version[0]}.{version[1]}",
                "upgrade ONNX Runtime, or export the bundle without --cache",
            )
        if formats.provider == "cuda" and self.provider != "cuda" and formats.activations == "bf16":
            raise ProviderError(
                f"{bundle.path} was exported for CUDA with bf16 activations, which the CPU cannot compute",
                "run it with --provider cuda, or export it again with --provider cpu",
            )
        if self.provider == "cuda":
            _check_attention(formats)
        legacy = graph.legacy_file if version < WINDOW_COUNTS_ITSELF else None
        path = bundle.file(legacy or graph.file)
        with same_attention(self.provider == "cpu" and bundle.manifest.exactness == "bit"):
            session = self.session(path)
        check_graph(session, graph, bundle.manifest.architecture, formats, str(path))
        return session

    def session(self, path: Path) -> Any:
        """An ONNX Runtime session for the graph in a file.

        ONNX Runtime silently falls back to the CPU if CUDA fails, so the session's own list of providers is checked.

        Raises:
            BundleError: the graph cannot be loaded.
            ProviderError: CUDA was asked for and does not work.
        """
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.use_per_session_threads = False
        options.log_severity_level = 3
        if self.provider == "cpu":
            options.add_session_config_entry("session.use_env_allocators", "1")
        wanted = PROVIDERS[self.provider]
        try:
            with huge_pages(), return_freed_memory():
                session = ort.InferenceSession(str(path), options, providers=[wanted])
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            if isinstance(error, MemoryError) or "bad_alloc" in str(error) or "Failed to allocate memory" in str(error):
                raise BundleError(
                    f"there is too little memory to load {path}", "close other programs, or raise the limit (ulimit -v)"
                ) from error
            raise BundleError(
                f"ONNX Runtime cannot load {path}: {str(error).strip().splitlines()[0]}",
                "export the bundle again, or upgrade ONNX Runtime",
            ) from error
        if wanted not in session.get_providers():
            raise ProviderError(
                f"CUDA was asked for, but ONNX Runtime gave only {', '.join(session.get_providers())}",
                "check the CUDA and cuDNN versions that this onnxruntime-gpu needs, or use --provider cpu",
            )
        return session


def _check_attention(formats: Formats) -> None:
    """Raise ProviderError unless CUDA's attention computes with the activations of a bundle."""
    if formats.activations not in CUDA_ACTIVATIONS:
        raise ProviderError(
            f"this bundle computes with {formats.activations} activations, for which CUDA has no attention",
            "run it with --provider cpu, or export it for the GPU: "
            "balcony-edge export MODEL --provider cuda --precision fp16",
        )


def installed_version(module: Any = None) -> tuple[int, int]:
    """ONNX Runtime's version, (major, minor)."""
    major, minor = (module or onnxruntime()).__version__.split(".")[:2]
    return int(major), int(minor)


def has_nvidia_device() -> bool:
    """Whether an NVIDIA driver has created its device nodes."""
    return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu"))
