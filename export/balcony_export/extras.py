"""A check that the packages of an extra are installed, made before the slow imports begin."""

from __future__ import annotations

from importlib.util import find_spec

from balcony_edge.errors import BalconyError

# What the code of each extra imports, by the names of the modules.
EXPORT = ("gguf", "ml_dtypes", "onnx", "onnx_ir", "safetensors")
TRAIN = (*EXPORT, "accelerate", "optimum", "torch", "transformers")


def require_export() -> None:
    """Raise BalconyError unless bundles can be exported here, with the command that installs what is missing."""
    _require(EXPORT, "export")


def require_train() -> None:
    """The same for what needs the model itself, run by torch: training and verification."""
    _require(TRAIN, "train")


def has_train() -> bool:
    """Whether torch and what reads models with it are installed."""
    return not _missing(TRAIN)


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
