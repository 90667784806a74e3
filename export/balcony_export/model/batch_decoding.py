"""Many sequences of the base decoded together, one token of each a step; one that ends makes room for another at once.

All rows share the slots of one cache, which is used as a ring: step t writes slot t mod length. A row's sequence is what
lies in the last slots, and a mask hides the slots before its beginning. So no row waits for the others and nothing is
moved or padded; a sequence may have as many tokens as the ring has slots.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from balcony_edge.errors import ModelError
from balcony_export.model.base import Base


class BatchDecoder:
    """``rows`` sequences of at most ``length`` tokens.

    Raises ModelError if ``length`` is more than the model's context or than a layer's attention window.
    """

    def __init__(self, base: Base, rows: int, length: int) -> None:
        from transformers.cache_utils import Cache

        arch = base.blueprint.arch
        window = min(arch.context, *(plan.window or arch.context for plan in base.blueprint.layers))
        if length > window:
            raise ModelError(
                f"sequences of {length} tokens are longer than the {window} that every layer sees",
                f"use --length {window} or less",
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
        hidden = age > self._held[:, None]
        # What is added to the scores: the plain attention of some families knows no other kind of mask.
        mask = torch.zeros_like(hidden, dtype=self._base.dtype).masked_fill_(hidden, torch.finfo(self._base.dtype).min)
        final = self._base.run(
            tokens[:, None],
            attention_mask=mask[:, None, None],
            position_ids=self._held[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._step += 1
        self._held += 1
        return self._base.head.logits(final[:, -1].to(self._base.head.weight.dtype))


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


def _empty(like: Tensor, length: int) -> Tensor:
    rows, heads, _, size = like.shape
    return like.new_zeros(rows, heads, length, size)
