"""What the config of a checkpoint says of how it was quantised: AWQ and GPTQ, and which kinds of them are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from balcony_edge.errors import ModelError
from balcony_export.model.model_files import READ_METHODS, read_json_object


@dataclass(frozen=True)
class Scheme:
    """How the linear weights of a checkpoint are packed."""

    method: Literal["awq", "gptq"]
    bits: int
    group: int
    """How many inputs share a scale; -1: all inputs of a row."""
    symmetric: bool
    """Whether zero is the middle level in every group."""
    zero_offset: int
    """What is added to stored zero points: GPTQ's first format stores them less one."""

    @property
    def kind(self) -> str:
        """What to call the type."""
        return f"{self.method.upper()} int{self.bits} " + (f"g{self.group}" if self.group > 0 else "by row")


def read_scheme(folder: Path) -> Scheme | None:
    """The scheme of a model folder; None for a checkpoint that is not quantised.

    Raises ModelError for schemes that are not read, and for numbers that make no sense.
    """
    path = folder / "config.json"
    said = read_json_object(path).get("quantization_config") if path.is_file() else None
    if not isinstance(said, dict) or said.get("quant_method") not in READ_METHODS:
        return None  # what is neither is refused where the weights are looked for
    method: Literal["awq", "gptq"] = "awq" if said["quant_method"] == "awq" else "gptq"
    bits, group = said.get("bits", said.get("w_bit")), said.get("group_size", said.get("q_group_size", -1))
    known = (4,) if method == "awq" else (4, 8)
    if not isinstance(bits, int) or bits not in known:
        raise _not_read(folder, f"{method.upper()} with {bits!r} bits", f"of {' or '.join(map(str, known))} bits")
    if not isinstance(group, int) or group == 0 or group < -1:
        raise _not_read(folder, f"{method.upper()} with groups of {group!r}", "with groups of 128")
    layout: Any = said.get("version", "gemm") if method == "awq" else said.get("checkpoint_format", "gptq")
    readable = ("gemm",) if method == "awq" else ("gptq", "gptq_v2")
    if str(layout).lower() not in readable:
        raise _not_read(folder, f"{method.upper()} in the layout {layout!r}", f"in the layout {' or '.join(readable)}")
    symmetric = method == "gptq" and bool(said.get("sym", True))
    return Scheme(method, bits, group, symmetric, 1 if method == "gptq" and layout == "gptq" else 0)


def _not_read(folder: Path, what: str, instead: str) -> ModelError:
    return ModelError(
        f"{folder} holds a checkpoint quantised as {what}, which is not read",
        f"give one {instead}, or the original checkpoint, and quantise it with --precision int8 or int4",
    )
