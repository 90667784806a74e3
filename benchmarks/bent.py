"""Baselines that train the base itself, or another model: what a Balcony is an alternative to.

LayerSkip (arXiv 2404.16710), Flextron (arXiv 2406.10260) and a smaller model, each in miniature and true to its idea.
All learn from the same tokens as the exits, and answer through the lab's interface.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from lab import Batch, Lab, Name
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

from balcony_export.data.rows import NO_TARGET
from balcony_export.training.learner import CLIP_NORM, cosine
from balcony_export.training.likeliest import LEAST

IGNORED = -100


class Trained:
    """A whole model that is trained: optimiser, schedule, losses over the lab's part of its own head."""

    name: str
    data = "text"

    def __init__(self, lab: Lab, model: Any, peak: float) -> None:
        self.module = model.float().requires_grad_(True)
        self._steps, self._peak = lab.config.steps, peak
        self._optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        self.optimizers = [self._optimizer]

    def step(self, step: int) -> None:
        """Apply the gradients."""
        for group in self._optimizer.param_groups:
            group["lr"] = cosine(step, self._steps, self._peak)
        nn.utils.clip_grad_norm_(self.module.parameters(), CLIP_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def plain(self) -> Any:
        """The model as it answers at full depth."""
        return self.module

    def run(self, batch: Batch) -> Tensor:
        """Its last normed hidden states [rows, length, hidden]."""
        out: Tensor = self.module.model(batch.tokens, position_ids=batch.positions, use_cache=False).last_hidden_state
        return out

    def head(self, normed: Tensor) -> Tensor:
        """Logits by the model's own whole head."""
        out: Tensor = functional.linear(normed, self.module.lm_head.weight)
        return out

    def _log_q(self, normed: Tensor, batch: Batch) -> Tensor:
        """Log-probabilities over the rows of the loss vocabulary, [counted, rows]."""
        vocabulary = batch.vocabulary
        logits = functional.linear(normed, self.module.lm_head.weight[vocabulary.tokens]).float()
        return torch.log_softmax(logits + vocabulary.weights, -1)

    def text_loss(self, normed: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the next tokens, those outside the loss vocabulary apart; ``normed`` [counted, hidden]."""
        known = batch.following != NO_TARGET
        place = batch.vocabulary.place(batch.following.clamp(min=0))
        place = torch.where(known & (place >= 0), place, IGNORED)
        return functional.nll_loss(self._log_q(normed, batch), place, ignore_index=IGNORED)

    def base_loss(self, normed: Tensor, batch: Batch) -> Tensor:
        """The loss that exits are taught by (balcony_export/training/likeliest.py), with a gradient for the head."""
        place = batch.vocabulary.place(batch.target.tokens)
        known = place >= 0
        shares = batch.target.shares * known
        rest = (1 - shares.sum(-1)).clamp(min=LEAST)
        log_known = self._log_q(normed, batch).gather(-1, place.clamp(min=0))
        q_rest = (1 - (log_known.exp() * known).sum(-1)).clamp(min=LEAST)
        return -((shares * log_known).sum(-1) + rest * q_rest.log()).mean()


class LayerSkip(Trained):
    """The base trained on with layer dropout and a cross-entropy at inner layers through its own norm and head.

    Layer l of L is dropped for a row with probability p · (exp(l · ln 2 / (L - 1)) - 1); the loss at layer l weighs
    scale · Σ i≤l, that of the last layer L - 1 + scale · Σ i<L-1; inner layers take turns.
    """

    name = "LayerSkip-style: base unfrozen, layer dropout, early-exit loss"
    DROP, SCALE, INNER_AT_ONCE = 0.1, 0.2, 3

    def __init__(self, lab: Lab, peak: float) -> None:
        super().__init__(lab, copy.deepcopy(lab.base.model), peak)
        self._layers = lab.base.blueprint.arch.layers
        self._splits = lab.splits

    def _pass(self, batch: Batch, step: int | None) -> dict[int, Tensor]:
        """Hidden states at the counted positions after every layer, the last one normed. None: nothing is dropped."""
        kept: dict[int, Tensor] = {}
        dice = torch.Generator().manual_seed(step or 0)

        def watch(layer: int) -> Any:
            chance = self.DROP * (math.exp(layer * math.log(2) / (self._layers - 1)) - 1)

            def hook(_: Any, given: tuple[Tensor, ...], hidden: Tensor) -> Tensor:
                if step is not None:
                    stays = torch.rand(len(hidden), generator=dice) >= chance
                    hidden = torch.where(stays[:, None, None], hidden, given[0])
                kept[layer + 1] = hidden
                return hidden

            return hook

        with ExitStack() as hooks:
            for index, layer in enumerate(self.module.model.layers):
                hooks.enter_context(layer.register_forward_hook(watch(index)))
            kept[self._layers] = self.run(batch)
        return {depth: hidden[batch.counted] for depth, hidden in kept.items()}

    def learn(self, step: int, batch: Batch) -> None:
        """One step; the frozen base's pass is not used."""
        last = self._layers - 1
        turn = max(1, last // self.INNER_AT_ONCE)
        inner = [layer for layer in range(last) if (layer + step) % turn == 0]
        weights = {layer: self.SCALE * layer * (layer + 1) / 2 for layer in inner}
        weights[last] = last + self.SCALE * last * (last - 1) / 2
        total = sum(weights.values())
        hidden = self._pass(batch, step)
        loss = torch.zeros(())
        for layer, weight in weights.items():
            normed = hidden[layer + 1] if layer == last else self.module.model.norm(hidden[layer + 1])
            loss = loss + weight / total * self.text_loss(normed, batch)
        loss.backward()
        self.step(step)

    def logits(self, batch: Batch) -> Iterator[tuple[Name, Tensor]]:
        """Its inner layers at the splits, and its full depth."""
        hidden = self._pass(batch, None)
        for split in self._splits:
            yield (self.name, split), self.head(self.module.model.norm(hidden[split]))
        yield (f"{self.name}, full", self._layers), self.head(hidden[self._layers])


class Elastic(Trained):
    """The base trained on to answer also with only its most important heads and MLP neurons, at widths by turns.

    Every step distils the frozen base into the full width and one narrower one (kinder than a loss to the text). What a
    mask hides contributes nothing, so a masked model is the cut one. A width reads as many weights as the exit of its
    split does.
    """

    name = "Flextron-style: base unfrozen, sorted heads and neurons"

    def __init__(self, lab: Lab, peak: float) -> None:
        super().__init__(lab, copy.deepcopy(lab.base.model), peak)
        self._arch = lab.base.blueprint.arch
        self._keep: dict[tuple[int, str], Tensor] = {}
        self._order = self._importance(lab)
        self._widths = {split: self._width(lab, split) for split in lab.splits}
        for index, layer in enumerate(self.module.model.layers):
            for part, module in (("heads", layer.self_attn.o_proj), ("neurons", layer.mlp.down_proj)):
                module.register_forward_pre_hook(self._hide((index, part)))

    def plain(self) -> Any:
        """At its full width."""
        self._keep = {}
        return self.module

    def _hide(self, key: tuple[int, str]) -> Any:
        return lambda _, given: (given[0] * self._keep[key].to(given[0].dtype),) if key in self._keep else None

    def _importance(self, lab: Lab) -> dict[tuple[int, str], Tensor]:
        """Groups of heads and neurons of every layer, most important first: by the mean size of what they hand on."""
        sums: dict[tuple[int, str], Tensor] = {}

        def watch(key: tuple[int, str], weight: Tensor) -> Any:
            def hook(_: Any, given: tuple[Tensor, ...]) -> None:
                sums[key] = sums.get(key, 0) + given[0].float().abs().mean((0, 1)) * weight.float().norm(dim=0)

            return hook

        with ExitStack() as hooks, torch.no_grad():
            for index, layer in enumerate(lab.base.model.model.layers):
                for part, module in (("heads", layer.self_attn.o_proj), ("neurons", layer.mlp.down_proj)):
                    hooks.enter_context(module.register_forward_pre_hook(watch((index, part), module.weight)))
            rows = lab.text.train[:32]
            lab.base.run(torch.from_numpy(rows.tokens), position_ids=torch.from_numpy(rows.positions), use_cache=False)
        groups = self._arch.kv_heads
        return {
            key: (size.view(groups, -1).sum(-1) if key[1] == "heads" else size).argsort(descending=True)
            for key, size in sums.items()
        }

    def _width(self, lab: Lab, split: int) -> dict[tuple[int, str], Tensor]:
        """Masks of the width that costs what the exit at ``split`` costs."""
        arch, shapes = self._arch, lab.base.blueprint.layer_shapes()
        attention = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("self_attn"))
        layer = attention + 3 * arch.hidden * arch.intermediate
        share = (split + 1) / arch.layers
        groups = max(1, round(share * arch.kv_heads))
        neurons = int((share * layer - attention * groups / arch.kv_heads) / (3 * arch.hidden))
        masks = {}
        for (index, part), order in self._order.items():
            keep = torch.zeros(len(order))
            keep[order[: groups if part == "heads" else neurons]] = 1.0
            if part == "heads":
                keep = keep.repeat_interleave(arch.heads * arch.head_dim // arch.kv_heads)
            masks[index, part] = keep
        return masks

    def _pass(self, batch: Batch, split: int | None) -> Tensor:
        """Normed last hidden states at the counted positions, at the width of a split; None: the full width."""
        self._keep = {} if split is None else self._widths[split]
        return self.run(batch)[batch.counted]

    def learn(self, step: int, batch: Batch) -> None:
        """Two passes: full, and one of the widths."""
        for split in (None, random.Random(step).choice(list(self._widths))):
            (self.base_loss(self._pass(batch, split), batch) / 2).backward()
        self.step(step)

    def logits(self, batch: Batch) -> Iterator[tuple[Name, Tensor]]:
        """Every width, and the full one."""
        for split in self._widths:
            yield (self.name, split), self.head(self._pass(batch, split))
        yield (f"{self.name}, full", self._arch.layers), self.head(self._pass(batch, None))


class Smaller(Trained):
    """A model of the base's kind with as many layers as the exit's token runs, from random weights on the text."""

    TITLE = "a smaller model from scratch"

    def __init__(self, lab: Lab, peak: float, split: int, seed: int) -> None:
        config = copy.deepcopy(lab.base.model.config)
        config.num_hidden_layers = split + 1
        torch.manual_seed(4 + seed)
        super().__init__(lab, AutoModelForCausalLM.from_config(config, dtype=torch.float32), peak)
        self.name = f"{self.TITLE}, {split}"
        self._split = split

    def learn(self, step: int, batch: Batch) -> None:
        """One step on the text alone."""
        self.text_loss(self.run(batch)[batch.counted], batch).backward()
        self.step(step)

    def logits(self, batch: Batch) -> Iterator[tuple[Name, Tensor]]:
        """Its one depth."""
        yield (self.TITLE, self._split), self.head(self.run(batch)[batch.counted])
