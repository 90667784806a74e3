"""Outliers moved into the weights: an input channel is scaled down and its column up, which changes no product.

Inputs are rounded to 8 bits in blocks as wide as the weights'. One channel that is much larger than its neighbours
costs them their precision. A norm's gain can scale each of its channels, and the rows of an MLP's up projection those
of its down projection. The weights behind take the reciprocal, so the exact product stays the same (SmoothQuant, AWQ).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from balcony_export.graphs.layers import GATE_UP, PACKED, QKV
from balcony_export.model.blueprint import Blueprint
from balcony_export.model.checkpoint import Array, TensorSource

# Half of the spread, on a logarithmic scale, goes into the weights.
STRENGTH = 0.5
LARGEST = 16.0


@dataclass(frozen=True)
class Factors:
    """What a tensor's rows and columns are multiplied by; None: nothing."""

    rows: Array | None = None
    columns: Array | None = None


class Balanced:
    """A base whose channels are scaled. Tensors without factors are the base's own."""

    def __init__(self, base: TensorSource, factors: Mapping[str, Factors], norm_offset: float) -> None:
        self._base = base
        self._factors = factors
        self._offset = np.float32(norm_offset)

    def __contains__(self, name: str) -> bool:
        return name in self._base

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._base.shape(name)

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise ModelError unless the tensor is there with this shape."""
        self._base.expect(name, shape)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """The values as float32, scaled."""
        values = self._base.tensor(name, shape)
        return self._scaled(name, values, 0)

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) as float32, scaled."""
        return self._scaled(name, self._base.rows(name, start, stop), start)

    def _scaled(self, name: str, values: Array, start: int) -> Array:
        factors = self._factors.get(name)
        if factors is None:
            return values
        # Norms of some families hold their gain less an offset.
        offset = self._offset if values.ndim == 1 and name.endswith("norm.weight") else np.float32(0)
        values = values + offset
        if factors.rows is not None:
            by = factors.rows[start : start + len(values)]
            values *= by if values.ndim == 1 else by[:, None]
        if factors.columns is not None:
            values *= factors.columns
        return values - offset


def balance(blueprint: Blueprint, base: TensorSource, importance: Mapping[str, Array]) -> Balanced:
    """``base`` with its channels scaled. ``importance``: the mean squares of each matrix's inputs, by matrix name."""
    factors: dict[str, Factors] = {}
    for index in range(blueprint.arch.layers):
        prefix, norms = f"model.layers.{index}.", blueprint.norms
        for norm, parts, name in (
            (norms.before_attention, QKV, "attn.qkv_proj"),
            (norms.before_mlp, GATE_UP, "mlp.gate_proj"),
        ):
            if norm is None:
                continue
            tensors = sorted({_tensor(blueprint, part) for part in parts})
            weights = np.concatenate([base.tensor(f"{prefix}{tensor}.weight") for tensor in tensors])
            by = _divisors(importance[f"{prefix}{name}"], weights)
            factors[f"{prefix}{norm}.weight"] = Factors(rows=np.float32(1) / by)
            factors |= {f"{prefix}{tensor}.weight": Factors(columns=by) for tensor in tensors}
        down = f"{prefix}mlp.down_proj"
        by = _divisors(importance[down], base.tensor(f"{down}.weight"))
        factors[f"{down}.weight"] = Factors(columns=by)
        up = _tensor(blueprint, "mlp.up_proj")
        rows = np.float32(1) / by
        if blueprint.packed:
            rows = np.concatenate([np.ones_like(by), rows])
        before = factors.get(f"{prefix}{up}.weight", Factors())
        factors[f"{prefix}{up}.weight"] = Factors(rows, before.columns)
        if blueprint.mlp_bias:
            factors[f"{prefix}{up}.bias"] = Factors(rows)
    return Balanced(base, factors, blueprint.norm_offset)


def _tensor(blueprint: Blueprint, part: str) -> str:
    return PACKED[part][0] if blueprint.packed else part


def _divisors(squares: Array, weight: Array) -> Array:
    """What each input is divided by, and its column of ``weight`` [out, in] multiplied by; their mean is about 1."""
    inputs = np.sqrt(np.maximum(squares, 1e-12))
    columns = np.sqrt(np.maximum(np.square(weight).mean(axis=0), 1e-12))
    by = (inputs / columns) ** STRENGTH
    by /= np.exp(np.log(by).mean())
    out: Array = np.clip(by, 1 / LARGEST, LARGEST).astype(np.float32)
    return out
