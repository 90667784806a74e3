"""The numbers in the blocks of a GGUF file: which types can be kept, and how each is unpacked without rounding.

Scales and minimums of the K types are products of an fp16 number and a few bits. They are exact in fp32, not in fp16.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from balcony_export.model.packed.numbers import Bytes, Floats, Form, Numbers, bits_of

# Of IQ4_NL: each level stands for one of these.
CODEBOOK = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)

FORMS = {
    form.kind: form
    for form in (
        Form("Q4_0", 4, 32),
        Form("Q5_0", 8, 32),
        Form("Q8_0", 8, 32),
        Form("IQ4_NL", 8, 32),
        Form("Q4_1", 4, 32, "minimum"),
        Form("Q5_1", 8, 32, "minimum"),
        Form("Q2_K", 4, 16, "minimum", half=False),
        Form("Q3_K", 4, 16, half=False),
        Form("Q4_K", 4, 32, "minimum", half=False),
        Form("Q5_K", 8, 32, "minimum", half=False),
        Form("Q6_K", 8, 16, half=False),
    )
}

# What a block of a type holds: levels [n, weights], scales [n, groups], and minimums [n, groups] if it has them.
Unpacked = tuple[Bytes, Floats, Floats | None]


def unpack(kind: str, raw: Bytes) -> Numbers:
    """The numbers of rows of the type ``kind``, whose bytes are ``raw`` [rows, bytes]."""
    form, rows = FORMS[kind], len(raw)
    size, read = UNPACK[kind]
    levels, scales, minimums = read(raw.reshape(-1, size))
    zeros = None if minimums is None else minimums.reshape(rows, -1)
    return Numbers(form, levels.reshape(rows, -1), scales.reshape(rows, -1), zeros)


def _halves(raw: Bytes) -> Floats:
    """fp16 numbers as fp32: bytes [n, 2 k] to [n, k]."""
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def _nibbles(raw: Bytes) -> Bytes:
    """All lower halves of the bytes, then all upper ones: [..., k] to [..., 2 k]."""
    return np.concatenate([raw & np.uint8(15), raw >> np.uint8(4)], axis=-1)


def _planes(raw: Bytes, width: int, bits: int) -> Bytes:
    """Numbers of ``bits`` bits, of which ``width`` neighbours lie in ``width`` bytes: [n, k] to [n, k · 8 / bits].

    The first ``width`` numbers are the lowest bits of the first ``width`` bytes, the next ones the bits above.
    """
    parts = bits_of(raw.reshape(len(raw), -1, width)[..., None], bits)
    return np.ascontiguousarray(parts.swapaxes(-1, -2)).reshape(len(raw), -1)


def _four_and_a_half(raw: Bytes) -> Unpacked:
    return _nibbles(raw[:, 2:]), _halves(raw[:, :2]), None


def _codebook(raw: Bytes) -> Unpacked:
    return _signed(CODEBOOK[_nibbles(raw[:, 2:])]), _halves(raw[:, :2]), None


def _with_minimum(raw: Bytes) -> Unpacked:
    return _nibbles(raw[:, 4:]), _halves(raw[:, :2]), _halves(raw[:, 2:4])


def _five(raw: Bytes) -> Bytes:
    """Four bytes of fifth bits, then sixteen of the four below."""
    return _nibbles(raw[:, 4:]) | (bits_of(raw[:, :4], 1) << np.uint8(4))


def _five_and_a_half(raw: Bytes) -> Unpacked:
    return _five(raw[:, 2:]) + np.uint8(128 - 16), _halves(raw[:, :2]), None


def _five_with_minimum(raw: Bytes) -> Unpacked:
    return _five(raw[:, 4:]), _halves(raw[:, :2]), _halves(raw[:, 2:4])


def _eight(raw: Bytes) -> Unpacked:
    return _signed(raw[:, 2:].view(np.int8)), _halves(raw[:, :2]), None


def _signed(levels: npt.NDArray[np.int8]) -> Bytes:
    """-128 … 127 as 0 … 255."""
    return np.ascontiguousarray(levels).view(np.uint8) ^ np.uint8(128)


def _two_k(raw: Bytes) -> Unpacked:
    groups, levels, scales = raw[:, :16], raw[:, 16:80], _halves(raw[:, 80:])
    return (
        _planes(levels, 32, 2),
        scales[:, :1] * (groups & np.uint8(15)).astype(np.float32),
        -(scales[:, 1:] * (groups >> np.uint8(4)).astype(np.float32)),
    )


def _three_k(raw: Bytes) -> Unpacked:
    high, low, packed, scale = raw[:, :32], raw[:, 32:96], raw[:, 96:108], _halves(raw[:, 108:])
    groups = _nibbles(packed[:, :8]) | (_planes(packed[:, 8:], 4, 2) << np.uint8(4))
    # Without its third bit a level is 4 lower. The middle of 4 bits is 8.
    levels = _planes(low, 32, 2) + (_planes(high, 32, 1) << np.uint8(2)) + np.uint8(8 - 4)
    return levels, scale * (groups.astype(np.float32) - np.float32(32)), None


def _scales_and_minimums(raw: Bytes) -> tuple[Floats, Floats]:
    """Of Q4_K and Q5_K: two fp16 numbers, then eight scales and eight minimums of 6 bits, in 12 bytes."""
    factors, packed = _halves(raw[:, :4]), raw[:, 4:16]
    first, second, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    six, top = np.uint8(63), np.uint8(0x30)
    scales = np.concatenate([first & six, (rest & np.uint8(15)) | ((first >> np.uint8(2)) & top)], axis=1)
    minimums = np.concatenate([second & six, (rest >> np.uint8(4)) | ((second >> np.uint8(2)) & top)], axis=1)
    return factors[:, :1] * scales.astype(np.float32), -(factors[:, 1:] * minimums.astype(np.float32))


def _four_k(raw: Bytes) -> Unpacked:
    return _planes(raw[:, 16:], 32, 4), *_scales_and_minimums(raw)


def _five_k(raw: Bytes) -> Unpacked:
    levels = _planes(raw[:, 48:], 32, 4) | (_planes(raw[:, 16:48], 32, 1) << np.uint8(4))
    return levels, *_scales_and_minimums(raw)


def _six_k(raw: Bytes) -> Unpacked:
    low, high = _planes(raw[:, :128], 64, 4), _planes(raw[:, 128:192], 32, 2)
    groups, scale = np.ascontiguousarray(raw[:, 192:208]).view(np.int8), _halves(raw[:, 208:])
    return (low | (high << np.uint8(4))) + np.uint8(128 - 32), scale * groups.astype(np.float32), None


# The bytes of a block, and what unpacks some of them [n, bytes].
UNPACK: dict[str, tuple[int, Callable[[Bytes], Unpacked]]] = {
    "Q4_0": (18, _four_and_a_half),
    "IQ4_NL": (18, _codebook),
    "Q4_1": (20, _with_minimum),
    "Q5_0": (22, _five_and_a_half),
    "Q5_1": (24, _five_with_minimum),
    "Q8_0": (34, _eight),
    "Q2_K": (84, _two_k),
    "Q3_K": (110, _three_k),
    "Q4_K": (144, _four_k),
    "Q5_K": (176, _five_k),
    "Q6_K": (210, _six_k),
}
