"""Keeps attention on Arm the same for one position and for several.

From version 1.29 on, ONNX Runtime's GroupQueryAttention works on blocks of positions ("flash attention"). On Arm (1.29
to 1.32, emulated Cortex-A76) a position then gets other bits among four and more than alone: drafts could not be
verified. A variable turns that off. It is read when a graph is loaded.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "ORT_GQA_DISABLE_FLASH_ATTENTION"


@contextmanager
def same_attention(wanted: bool) -> Iterator[None]:
    """Within the block, graphs are loaded without attention in blocks, if ``wanted`` and on Arm.

    Where the user has set the variable, it stays as it is.
    """
    if not wanted or VARIABLE in os.environ or platform.machine() not in ("aarch64", "arm64"):
        yield
        return
    os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
