"""AWQ and GPTQ checkpoints with random numbers, packed by this file's own formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file


def pack_words(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Numbers [..., n] as int32 words [..., n · bits / 32], the first in the lowest bits."""
    each = 32 // bits
    words = np.zeros((*numbers.shape[:-1], numbers.shape[-1] // each), np.uint32)
    for place in range(each):
        words |= numbers[..., place::each].astype(np.uint32) << np.uint32(place * bits)
    return words.view(np.int32)


def write_packed(
    plain: Path,
    out: Path,
    method: str,
    *,
    bits: int = 4,
    group: int = 32,
    symmetric: bool = False,
    act_order: bool = False,
    **said: Any,
) -> dict[str, np.ndarray]:
    """A quantised checkpoint with random numbers in place of the projections of the model in ``plain``.

    Returns the weights that it means, fp32, by the name of each. ``said``: what else quantization_config says.
    """
    random = np.random.default_rng(5)
    tensors, meant = load_file(plain / "model.safetensors"), {}
    stored = {}
    for name, value in tensors.items():
        if not name.endswith("proj.weight"):
            stored[name] = value.to(torch.float16) if value.dim() == 2 else value
            continue
        outputs, inputs = value.shape
        size = inputs if group == -1 else group
        groups, middle = inputs // size, 1 << (bits - 1)
        levels = random.integers(0, 1 << bits, (outputs, inputs))
        zeros = np.full((outputs, groups), middle) if symmetric else random.integers(1, 1 << bits, (outputs, groups))
        scales = random.uniform(0.5, 1.5, (outputs, groups)) * 0.02 * 2.0 ** (4 - bits)
        scales = scales.astype(np.float16)
        of_input = np.arange(inputs) // size
        if act_order:
            # The same inputs come to all projections that read them.
            of_input = np.random.default_rng(inputs).permutation(of_input)
        stem = name.removesuffix(".weight")
        meant[name] = ((levels - zeros[:, of_input]) * scales[:, of_input].astype(np.float64)).astype(np.float32)
        parts = {"scales": scales.T}
        if method == "awq":
            order = [0, 2, 4, 6, 1, 3, 5, 7]
            for part, numbers in (("qweight", levels.T), ("qzeros", zeros.T)):
                eights = numbers.reshape(len(numbers), -1, 8)[..., order].reshape(len(numbers), -1)
                parts[part] = pack_words(eights, 4)
        else:
            less = 0 if said.get("checkpoint_format") == "gptq_v2" else 1
            parts["qweight"] = pack_words(levels, bits).T
            parts["qzeros"] = pack_words(zeros.T - less, bits)
            parts["g_idx"] = of_input.astype(np.int32)
        stored |= {f"{stem}.{part}": torch.from_numpy(np.ascontiguousarray(array)) for part, array in parts.items()}
    out.mkdir()
    for path in plain.iterdir():
        if path.suffix != ".safetensors":
            (out / path.name).write_bytes(path.read_bytes())
    save_file(stored, out / "model.safetensors")
    config = json.loads((out / "config.json").read_text())
    scheme = {"quant_method": method, "bits": bits, "group_size": group, **said}
    if method == "gptq":
        scheme |= {"sym": symmetric, "desc_act": act_order}
    (out / "config.json").write_text(json.dumps({**config, "quantization_config": scheme}))
    return meant
