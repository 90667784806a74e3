"""AWQ and GPTQ checkpoints as a TensorSource: their packed weights under the names of the plain ones.

A linear weight [out, in] is held in three tensors or four, all with the outputs last:

    qweight int32   AWQ [in, out / 8], GPTQ [in · bits / 32, out]
    qzeros int32    [groups, out · bits / 32]
    scales          [groups, out]
    g_idx int32     [in], of GPTQ: the group of each input. With act-order the groups are not in order.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from balcony_edge.bundle.manifest import Activations
from balcony_edge.errors import ModelError
from balcony_export.model.checkpoint import BLOCK, Array, Checkpoint, check_rows
from balcony_export.model.model_files import AGAIN
from balcony_export.model.packed.numbers import Bytes, Form, Numbers, bits_of
from balcony_export.model.packed.scheme import Scheme

WORD = 32
# AWQ's words hold the outputs in this order, the lowest bits first.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
PARTS = ("qweight", "qzeros", "scales", "g_idx")


class PackedCheckpoint:
    """The tensors of a quantised checkpoint. It is a PackedSource; ``rows`` gives the dequantised weights.

    Raises ModelError for packed tensors that are not whole.
    """

    def __init__(self, plain: Checkpoint, scheme: Scheme) -> None:
        self._plain = plain
        self._scheme = scheme
        self.folder = plain.folder
        self._stems = {name.removesuffix(".qweight") for name in plain.names() if name.endswith(".qweight")}
        if not self._stems:
            raise ModelError(
                f"{self.folder}: config.json says that it is quantised, but no tensor is packed as {scheme.method} "
                "does",
                f"remove quantization_config from config.json if the weights are floats, or {AGAIN}",
            )
        inside = {f"{stem}.{part}" for stem in self._stems for part in PARTS}
        self._names = [
            *(f"{stem}.weight" for stem in sorted(self._stems)),
            *(n for n in plain.names() if n not in inside),
        ]
        self._form = lru_cache(None)(self._read_form)

    def __contains__(self, name: str) -> bool:
        return self._stem(name) is not None or name in self._plain

    def names(self) -> tuple[str, ...]:
        """The names of all tensors, packed ones under those of the weights that they hold."""
        return tuple(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; of a packed one that of its weight, [out, in]."""
        stem = self._stem(name)
        if stem is None:
            return self._plain.shape(name)
        rows, columns = self._plain.shape(f"{stem}.qweight")
        each = WORD // self._scheme.bits
        return (columns * each, rows) if self._scheme.method == "awq" else (columns, rows * each)

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise ModelError unless the tensor is there with this shape, and is whole if it is packed."""
        stem = self._stem(name)
        if stem is None:
            self._plain.expect(name, shape)
            return
        if len(self._plain.shape(f"{stem}.qweight")) != 2 or self.shape(name) != tuple(shape):
            raise ModelError(
                f"{self.folder}: {stem}.qweight has shape {list(self._plain.shape(f'{stem}.qweight'))}, which is not "
                f"that of a packed weight {list(shape)}",
                f"config.json and the weights do not belong together: {AGAIN}",
            )
        groups = shape[1] // self._block(shape[1])
        self._plain.expect(f"{stem}.scales", (groups, shape[0]))
        zeros = self._plain.shape(f"{stem}.qzeros")
        if zeros != (groups, shape[0] * self._scheme.bits // WORD):
            raise ModelError(f"{self.folder}: {stem}.qzeros has shape {list(zeros)}, which does not fit", AGAIN)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """One tensor as float32, dequantised if it is packed. Raises ModelError as ``expect`` and ``rows`` do."""
        if self._stem(name) is None:
            return self._plain.tensor(name, shape)
        if shape is not None:
            self.expect(name, shape)
        found = self.shape(name)
        values = np.empty(found, np.float32)
        step = max(1, BLOCK // found[1])
        for start in range(0, found[0], step):
            values[start : start + step] = self.rows(name, start, min(start + step, found[0]))
        return values

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows [start, stop) as float32, dequantised if they are packed: scale · (level - zero), in fp32."""
        if self._stem(name) is None:
            return self._plain.rows(name, start, stop)
        return self.numbers(name, start, stop).values()

    def form(self, name: str) -> Form | Activations:
        """How a matrix is held: see PackedSource. Of GPTQ it reads which group each input belongs to."""
        stem = self._stem(name)
        return self._plain.form(name) if stem is None else self._form(stem)

    def numbers(self, name: str, start: int, stop: int) -> Numbers:
        """Rows [start, stop) of a packed weight as the checkpoint holds them. Raises ModelError for broken ones."""
        stem = self._stem(name)
        assert stem is not None, f"{name} holds floats"
        check_rows(name, self.shape(name), start, stop)
        form, bits = self._form(stem), self._scheme.bits
        if self._scheme.method == "awq":
            levels = self._across(f"{stem}.qweight", start, stop, AWQ_ORDER)
            zeros = self._across(f"{stem}.qzeros", start, stop, AWQ_ORDER)
        else:
            words = self._integers(f"{stem}.qweight", slice(None), slice(start, stop))
            levels = bits_of(np.ascontiguousarray(words.T).view(np.uint32), bits)
            zeros = self._across(f"{stem}.qzeros", start, stop, tuple(range(WORD // bits)))
        if form.order is not None:
            levels = np.ascontiguousarray(levels[:, list(form.order)])
        scales = np.ascontiguousarray(self._plain.tensor(f"{stem}.scales")[:, start:stop].T)
        return Numbers(form, levels, scales, self._zeros(stem, form, zeros))

    def _zeros(self, stem: str, form: Form, stored: Bytes) -> Bytes | None:
        """Zero points as MatMulNBits means them; None where they all are the middle, as the config has said."""
        offset = self._scheme.zero_offset
        if offset and (stored == (1 << form.bits) - 1).any():
            raise ModelError(
                f"{self.folder}: {stem}.qzeros holds {(1 << form.bits) - 1}, of which GPTQ's first format does not say "
                f"whether it means {1 << form.bits} or 0",
                "give the checkpoint in the format gptq_v2, or a symmetric one",
            )
        zeros = stored + np.uint8(offset)
        if form.zero == "level":
            return zeros
        if (zeros != 1 << (form.bits - 1)).any():
            raise ModelError(
                f"{self.folder}: config.json says that it is symmetric, but {stem}.qzeros holds other zero points",
                f'say "sym": false in its quantization_config, or {AGAIN}',
            )
        return None

    def _across(self, name: str, start: int, stop: int, order: tuple[int, ...]) -> Bytes:
        """Columns [start, stop) of numbers packed along the columns, turned: [stop - start, rows].

        ``order``: which column of a word's each of its numbers belongs to, the lowest bits first.
        """
        each = len(order)
        first = start // each
        words = self._integers(name, slice(None), slice(first, -(-stop // each)))
        numbers = bits_of(words.view(np.uint32), WORD // each).reshape(len(words), -1, each)
        plain = numbers[..., np.argsort(order)].reshape(len(words), -1)
        return np.ascontiguousarray(plain[:, start - first * each : stop - first * each].T)

    def _integers(self, name: str, rows: slice, columns: slice | None = None) -> npt.NDArray[np.int32]:
        """Some rows, and columns of these, of a tensor of 32-bit integers; no others are read."""
        path, stored, dtype = self._plain.place(name)
        if dtype != "I32":
            raise ModelError(
                f"{path}: {name} is stored as {dtype}, not as 32-bit integers",
                "give a checkpoint as AutoAWQ or GPTQModel writes it",
            )
        try:
            with safe_open(path, "np") as handle:
                piece = handle.get_slice(stored)
                return np.array(piece[rows] if columns is None else piece[rows, columns], np.int32)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot read {path}: {error}", AGAIN) from error

    def _read_form(self, stem: str) -> Form:
        inputs = self.shape(f"{stem}.weight")[1]
        block = self._block(inputs)
        return Form(
            kind=self._scheme.kind,
            bits=self._scheme.bits,
            block=block,
            zero="middle" if self._scheme.symmetric else "level",
            half=self._plain.place(f"{stem}.scales")[2] == "F16",
            order=self._order(stem, inputs, block) if f"{stem}.g_idx" in self._plain else None,
        )

    def _order(self, stem: str, inputs: int, block: int) -> tuple[int, ...] | None:
        """The inputs sorted by group; None if they are sorted already."""
        groups = self._integers(f"{stem}.g_idx", slice(None))
        usual: npt.NDArray[np.int32] = np.arange(inputs, dtype=np.int32) // block
        if np.array_equal(groups, usual):
            return None
        order = np.argsort(groups, kind="stable")
        if not np.array_equal(groups[order], usual):
            raise ModelError(
                f"{self.folder}: {stem}.g_idx does not put {block} inputs into each group",
                "give a checkpoint of another group size, or one without act-order (desc_act)",
            )
        return tuple(int(index) for index in order)

    def _block(self, inputs: int) -> int:
        """How many of the inputs share a scale."""
        group = self._scheme.group
        if group == -1:
            return inputs
        if inputs % group:
            raise ModelError(
                f"{self.folder}: {inputs} inputs are no whole groups of {group}", f"config.json is not its own: {AGAIN}"
            )
        return group

    def _stem(self, name: str) -> str | None:
        """The name of a packed weight without its ending; None for all else."""
        stem = name.removesuffix(".weight")
        return stem if stem != name and stem in self._stems else None
