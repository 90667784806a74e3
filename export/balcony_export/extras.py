"""A check that the workstation's packages are installed, made before the slow imports begin."""

from __future__ import annotations

from importlib.util import find_spec

from balcony_edge.errors import BalconyError

WORKSTATION = ("torch", "transformers", "safetensors", "onnx", "onnx_ir", "optimum")


def require_workstation() -> None:
    """Raise BalconyError naming the missing packages and the command that installs them."""
    missing = [name for name in WORKSTATION if find_spec(name) is None]
    if missing:
        raise BalconyError(
            f"this command runs on a workstation and lacks packages: {', '.join(missing)}",
            "run pip install 'balcony-edge[export]'",
        )
