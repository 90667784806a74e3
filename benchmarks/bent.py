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
from lab import Lab, Name
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

from balcony_export.model.base import BaseStates
from balcony_export.training.learner import CLIP_NORM
from balcony_export.training.schedule import cosine


class Trained:
    """A whole model that is trained: optimiser, schedule, data."""

    data, seed = "text", 0

    def __init__(self, model: Any, steps: int, peak: float) -> None:
        self.model = model.requires_grad_(True)
        self._steps = steps
        self._peak = peak
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=0.0)

    def step(self, step: int) -> None:
        """Apply the gradients."""
        for group in self._optimizer.param_groups:
            group["lr"] = cosine(step, self._steps, self._peak)
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def plain(self) -> Any:
        """The model as it answers at full depth."""
        return self.model

    def logits(self, normed: Tensor) -> Tensor:
        """The model's own head."""
        out: Tensor = functional.linear(normed, self.model.lm_head.weight)
        return out


def text_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of the next token, logits [rows, length, V]."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


class LayerSkip(Trained):
    """The base trained on with layer dropout and a cross-entropy at inner layers through its own norm and head.

    Layer l of L is dropped for a row with probability p · (exp(l · ln 2 / (L - 1)) - 1); the loss at layer l weighs
    scale · Σ i≤l, that of the last layer L - 1 + scale · Σ i<L-1; inner layers take turns.
    """

    name = "LayerSkip-style: base unfrozen, layer dropout, early-exit loss"
    DROP, SCALE, INNER_AT_ONCE = 0.1, 0.2, 3

    def __init__(self, lab: Lab, steps: int, peak: float) -> None:
        super().__init__(copy.deepcopy(lab.base.model), steps, peak)
        self._layers = lab.base.blueprint.arch.layers
        self._splits = lab.splits
        self._dice = torch.Generator().manual_seed(2)

    def _pass(self, tokens: Tensor, dropping: bool) -> dict[int, Tensor]:
        """Hidden states after every layer, the last one normed."""
        inner = self.model.model
        kept: dict[int, Tensor] = {}

        def watch(layer: int) -> Any:
            chance = self.DROP * (math.exp(layer * math.log(2) / (self._layers - 1)) - 1)

            def hook(_: Any, given: tuple[Tensor, ...], hidden: Tensor) -> Tensor:
                if dropping:
                    stays = torch.rand(len(hidden), generator=self._dice) >= chance
                    hidden = torch.where(stays[:, None, None], hidden, given[0])
                kept[layer + 1] = hidden
                return hidden

            return hook

        with ExitStack() as hooks:
            for index, layer in enumerate(inner.layers):
                hooks.enter_context(layer.register_forward_hook(watch(index)))
            kept[self._layers] = inner(tokens, use_cache=False).last_hidden_state
        return kept

    def learn(self, step: int, tokens: Tensor, states: BaseStates) -> None:
        """One step; the frozen base's pass is not used."""
        last = self._layers - 1
        turn = max(1, last // self.INNER_AT_ONCE)
        inner = [layer for layer in range(last) if (layer + step) % turn == 0]
        weights = {layer: self.SCALE * layer * (layer + 1) / 2 for layer in inner}
        weights[last] = last + self.SCALE * last * (last - 1) / 2
        total = sum(weights.values())
        hidden = self._pass(tokens, dropping=True)
        loss = torch.zeros(())
        for layer, weight in weights.items():
            normed = hidden[layer + 1] if layer == last else self.model.model.norm(hidden[layer + 1])
            loss = loss + weight / total * text_loss(self.logits(normed), tokens)
        loss.backward()
        self.step(step)

    def logits(self, tokens: Tensor, states: BaseStates) -> Iterator[tuple[Name, Tensor]]:
        """Its inner layers at the splits, and its full depth."""
        hidden = self._pass(tokens, dropping=False)
        for split in self._splits:
            yield (self.name, split), self.logits(self.model.model.norm(hidden[split]))
        yield (f"{self.name}, full", self._layers), self.logits(hidden[self._layers])


class Elastic(Trained):
    """The base trained on to answer also with only its most important heads and MLP neurons, at widths by turns.

    Every step distils the frozen base into the full width and one narrower one (kinder than a loss to the text). What a
    mask hides contributes nothing, so a masked model is the cut one. A width reads as many weights as the exit of its
    split does.
    """

    name = "Flextron-style: base unfrozen, sorted heads and neurons"

    def __init__(self, lab: Lab, steps: int, peak: float) -> None:
        super().__init__(copy.deepcopy(lab.base.model), steps, peak)
        self._head = lab.base.head
        self._arch = lab.base.blueprint.arch
        self._dice = random.Random(3)
        self._keep: dict[tuple[int, str], Tensor] = {}
        self._order = self._importance(lab)
        self._widths = {split: self._width(lab, split) for split in lab.splits}
        for index, layer in enumerate(self.model.model.layers):
            for part, module in (("heads", layer.self_attn.o_proj), ("neurons", layer.mlp.down_proj)):
                module.register_forward_pre_hook(self._hide((index, part)))

    def plain(self) -> Any:
        """At its full width."""
        self._keep = {}
        return self.model

    def _hide(self, key: tuple[int, str]) -> Any:
        return lambda _, given: (given[0] * self._keep[key],) if key in self._keep else None

    def _importance(self, lab: Lab) -> dict[tuple[int, str], Tensor]:
        """Groups of heads and neurons of every layer, most important first: by the mean size of what they hand on."""
        sums: dict[tuple[int, str], Tensor] = {}

        def watch(key: tuple[int, str], weight: Tensor) -> Any:
            def hook(_: Any, given: tuple[Tensor, ...]) -> None:
                sums[key] = sums.get(key, 0) + given[0].abs().mean((0, 1)) * weight.norm(dim=0)

            return hook

        with ExitStack() as hooks, torch.no_grad():
            for index, layer in enumerate(lab.base.model.model.layers):
                for part, module in (("heads", layer.self_attn.o_proj), ("neurons", layer.mlp.down_proj)):
                    hooks.enter_context(module.register_forward_pre_hook(watch((index, part), module.weight)))
            length = lab.rows.shape[1]
            lab.base.model.model(torch.from_numpy(lab.train[: 32 * length]).view(32, length), use_cache=False)
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

    def _pass(self, tokens: Tensor, split: int | None) -> Tensor:
        """Normed last hidden states at the width of a split; None: the full width."""
        self._keep = {} if split is None else self._widths[split]
        normed: Tensor = self.model.model(tokens, use_cache=False).last_hidden_state
        return normed

    def learn(self, step: int, tokens: Tensor, states: BaseStates) -> None:
        """Two passes: full, and one of the widths."""
        target = torch.softmax(self._head.logits(states.final), -1)
        for split in (None, self._dice.choice(list(self._widths))):
            log_q = torch.log_softmax(self.logits(self._pass(tokens, split)), -1)
            (-(target * log_q).sum(-1).mean() / 2).backward()
        self.step(step)

    def logits(self, tokens: Tensor, states: BaseStates) -> Iterator[tuple[Name, Tensor]]:
        """Every width, and the full one."""
        for split in self._widths:
            yield (self.name, split), self.logits(self._pass(tokens, split))
        yield (f"{self.name}, full", self._arch.layers), self.logits(self._pass(tokens, None))


class Smaller(Trained):
    """A model of the base's kind with as many layers as the exit's token runs, from random weights on the text."""

    name = "a smaller model from scratch"

    def __init__(self, lab: Lab, steps: int, peak: float, split: int) -> None:
        config = copy.deepcopy(lab.base.model.config)
        config.num_hidden_layers = split + 1
        torch.manual_seed(4)
        super().__init__(AutoModelForCausalLM.from_config(config, dtype=torch.float32), steps, peak)
        self._split = split

    def learn(self, step: int, tokens: Tensor, states: BaseStates) -> None:
        """One step on the text alone."""
        text_loss(self.model(tokens, use_cache=False).logits, tokens).backward()
        self.step(step)

    def logits(self, tokens: Tensor, states: BaseStates) -> Iterator[tuple[Name, Tensor]]:
        """Its one depth."""
        yield (self.name, self._split), self.model(tokens, use_cache=False).logits
