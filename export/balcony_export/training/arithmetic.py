"""How many floating-point operations training and measuring take, counted from shapes; and how fast the machine is.

A matrix of n weights takes 2n operations a token forwards and 4n backwards. Attention's scores are left out: at the
lengths that exits are trained on they are a few percent.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from balcony_export.exits.widths import Width, exit_shapes
from balcony_export.model.blueprint import Blueprint

# Python, torch and transformers.
LIBRARIES_BYTES = 6e8


def layer_weights(blueprint: Blueprint) -> int:
    """The weights of one decoder layer's matrices."""
    return sum(int(np.prod(shape)) for shape in blueprint.layer_shapes().values() if len(shape) == 2)


def head_weights(blueprint: Blueprint) -> int:
    """The weights of the head."""
    return blueprint.arch.vocabulary * blueprint.arch.hidden


def base_operations(blueprint: Blueprint) -> float:
    """Of the base on one token, its head included."""
    return 2.0 * (blueprint.arch.layers * layer_weights(blueprint) + head_weights(blueprint))


def exit_operations(blueprint: Blueprint, width: Width, head_rows: int, layers: int = 1) -> float:
    """Of one exit's training on one token: its layers forwards and backwards, the head forwards and to its input."""
    layer = sum(int(np.prod(shape)) for shape in exit_shapes(blueprint, width).values() if len(shape) == 2)
    return 6.0 * layers * layer + 4.0 * head_rows * blueprint.arch.hidden


def observed_operations(blueprint: Blueprint, exits: int) -> float:
    """Of measuring on one token: the base, and every exit's layer and head, its lens's head too."""
    return base_operations(blueprint) + exits * (2.0 * layer_weights(blueprint) + 4.0 * head_weights(blueprint))


def training_memory(blueprint: Blueprint, layers: int, tokens: int, base_bytes: int, head_rows: int) -> float:
    """About how many bytes training takes: the base, every exit with its gradient and moments, and a step's states.

    ``layers``: of all exits together. ``tokens``: of a piece of a step. ``base_bytes``: of one weight of the base.
    """
    arch = blueprint.arch
    base = base_bytes * (arch.layers * layer_weights(blueprint) + head_weights(blueprint))
    # Weights, gradients and two moments in fp32.
    trained = 16 * layers * layer_weights(blueprint)
    # What the exits' layers hold for the way back, some of it in two precisions.
    states = 4 * tokens * layers * (20 * arch.hidden + 8 * arch.intermediate)
    return LIBRARIES_BYTES + base + trained + states + 4 * head_rows * arch.hidden


def matmul_rate(dtype: torch.dtype, device: torch.device, size: int = 1536, seconds: float = 0.3) -> float:
    """Operations a second that a product of two square matrices reaches: the most that training can."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def run() -> None:
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    best, begun = 0.0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        run()
        best = max(best, 2.0 * size**3 / (time.perf_counter() - start))
    return best
