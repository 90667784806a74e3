"""A check that the packages of an extra are installed, made before the slow imports begin."""

from __future__ import annotations

import resource
from importlib.util import find_spec

from balcony_edge.errors import BalconyError

# What the code of each extra imports, by the names of the modules.
EXPORT = ("gguf", "ml_dtypes", "onnx", "onnx_ir", "safetensors")
TRAIN = (*EXPORT, "accelerate", "optimum", "torch", "transformers")

# With less address space than this (bytes), libraries under torch try for ever to get some, and do not say so.
LEAST_ADDRESS_SPACE = 1_500_000_000


def require_export() -> None:
    """Raise BalconyError unless bundles can be exported here, with the command that installs what is missing."""
    _require(EXPORT, "export")


def require_train() -> None:
    """The same for what needs the model itself, run by torch: training and verification."""
    _require(TRAIN, "train")
    if not _has_address_space():
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        raise BalconyError(
            f"this process may take {limit / 1e9:.1f} GB of address space; torch alone reserves more",
            f"raise the limit (ulimit -v {LEAST_ADDRESS_SPACE // 1000} at least, or unlimited)",
        )


def has_train() -> bool:
    """Whether torch and what reads models with it are installed, and may take what torch reserves."""
    return not _missing(TRAIN) and _has_address_space()


def _has_address_space() -> bool:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return limit == resource.RLIM_INFINITY or limit >= LEAST_ADDRESS_SPACE


def _require(names: tuple[str, ...], extra: str) -> None:
    if missing := _missing(names):
        raise BalconyError(
            f"this command lacks packages: {', '.join(missing)}", f"run pip install 'balcony-edge[{extra}]'"
        )


def _missing(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # a module that was made unusable, as sys.modules[name] = None does
        return False
