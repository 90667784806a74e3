"""Many sequences of the base decoded together, one token of each a step; one that ends makes room for another at once.

All rows share the slots of one cache, which is used as a ring: step t writes slot t mod length. A row's sequence is
what lies in the last slots, and a mask hides the slots before its beginning. So no row waits for the others and nothing
is moved or padded; a sequence may have as many tokens as the ring has slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from balcony_edge.errors import ModelError
from balcony_export.model.base import Base

_GROUPED = "balcony_grouped"


class BatchDecoder:
    """``rows`` sequences of at most ``length`` tokens. Raises ModelError if that is more than the model's context."""

    def __init__(self, base: Base, rows: int, length: int) -> None:
        from transformers.cache_utils import Cache

        arch = base.blueprint.arch
        if length > arch.context:
            raise ModelError(
                f"sequences of {length} tokens are longer than the model's context of {arch.context}",
                f"use --length {arch.context} or less",
            )
        self._base, self._length = base, length
        self._layers = [_RingLayer(length) for _ in range(arch.layers)]
        self._cache = Cache(layers=self._layers)  # type: ignore[arg-type]
        self._step = 0
        # How many tokens each row's sequence has in the cache.
        self._held = torch.zeros(rows, dtype=torch.int64, device=base.device)
        self._slots = torch.arange(length, device=base.device)

    def restart(self, row: int) -> None:
        """Let a new sequence begin in ``row``."""
        self._held[row] = 0

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows alone, in this order."""
        self._held = self._held[rows]
        for layer in self._layers:
            layer.keep(rows)

    @torch.no_grad()
    def feed(self, tokens: Tensor) -> Tensor:
        """Append one token to every row, int64 [rows]; returns the logits of the next ones, fp32 [rows, vocabulary]."""
        slot = self._step % self._length
        for layer in self._layers:
            layer.slot = slot
        # How many steps ago each slot was written.
        age = (slot - self._slots) % self._length
        with _grouped_attention(self._base):
            final = self._base.run(
                tokens[:, None],
                attention_mask=self._masks(age),
                position_ids=self._held[:, None],
                past_key_values=self._cache,
                use_cache=True,
            )
        self._step += 1
        self._held += 1
        return self._base.head.logits(final[:, -1].to(self._base.head.weight.dtype))

    def _masks(self, age: Tensor) -> Tensor | dict[str, Tensor]:
        """What is added to the scores, [rows, 1, 1, length]; by the kind of layer if there are two.

        ``age`` [length]: how many steps ago each slot was written.
        """
        kind, plans = self._base.dtype, self._base.blueprint.layers

        def mask(window: int | None) -> Tensor:
            hidden = age > self._held[:, None]
            if window is not None:
                hidden |= age >= window
            return torch.zeros_like(hidden, dtype=kind).masked_fill_(hidden, torch.finfo(kind).min)[:, None, None]

        windows = {plan.window for plan in plans}
        if len(windows) == 1:
            return mask(plans[0].window)
        return {"full_attention": mask(None), "sliding_attention": mask(min(filter(None, windows)))}


class _RingLayer:
    """One layer's keys and values, [rows, kv_heads, length, head_dim], in the form that a transformers cache asks."""

    is_compileable = False
    is_sliding = False

    def __init__(self, length: int) -> None:
        self._length = length
        self._held: tuple[Tensor, Tensor] | None = None
        self.slot = 0

    def update(self, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write one step's ``key`` and ``value``, [rows, kv_heads, 1, head_dim]; returns all of the ring."""
        if self._held is None:
            # Rotated keys are fp32 also where products are bf16; kept so, every step would convert the whole ring.
            key = key.to(value.dtype)
            self._held = _empty(key, self._length), _empty(value, self._length)
        for held, new in zip(self._held, (key, value), strict=True):
            held[:, :, self.slot : self.slot + 1] = new
        return self._held

    def keep(self, rows: list[int]) -> None:
        """Forget all other rows."""
        if self._held is not None:
            key, value = self._held
            self._held = key[rows], value[rows]

    def get_seq_length(self) -> int:
        """Not used: positions are always given."""
        return 0


@contextmanager
def _grouped_attention(base: Base) -> Iterator[None]:
    """Let ``base`` attend by ``_attend`` where it would by torch's own function, which is five times slower here."""
    config = base.model.config.get_text_config()
    chosen = config._attn_implementation
    if chosen == "sdpa":
        AttentionInterface.register(_GROUPED, _attend)
        config._attn_implementation = _GROUPED
    try:
        yield
    finally:
        config._attn_implementation = chosen


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **more: Any
) -> tuple[Tensor, None]:
    """Attention of one token a row: the heads that share keys form one product. Returns [rows, 1, heads, head_dim]."""
    rows, heads, _, size = query.shape
    grouped = query.view(rows, key.shape[1], -1, size)
    scores = torch.matmul(grouped, key.transpose(-1, -2)).float() * scaling + attention_mask
    weights = scores.softmax(-1).to(value.dtype)
    return torch.matmul(weights, value).view(rows, 1, heads, value.shape[-1]), None


def _empty(like: Tensor, length: int) -> Tensor:
    rows, heads, _, size = like.shape
    return like.new_zeros(rows, heads, length, size)
