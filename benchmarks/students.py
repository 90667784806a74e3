"""Exits on the frozen base as the harnesses train them: those of the product, and richer ones that cost more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lab import Batch, Lab, Name
from torch import Tensor, nn

from balcony_export.data.rows import NO_TARGET
from balcony_export.exits.balcony import Balconies, Balcony, build
from balcony_export.exits.widths import Width, check_width
from balcony_export.training.chunked_loss import chunked_loss
from balcony_export.training.learner import Learner, cosine
from balcony_export.training.likeliest import Likeliest
from balcony_export.training.loop import TrainConfig


@dataclass(frozen=True)
class Variant:
    """What differs from the defaults of training, and on which tokens."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    data: str = "text"
    rate: float = 1.0
    """A factor of the learning rate."""


class Student:
    """The exits of one variant, each with its optimiser."""

    def __init__(self, variant: Variant, lab: Lab) -> None:
        self.name, self.data = variant.name, variant.data
        settings = {"steps": lab.config.steps, "dtype": lab.config.dtype, **variant.settings}
        config = TrainConfig.for_base(lab.base.blueprint.arch, lab.splits, **settings)
        self.config = replace(config, learning_rate=variant.rate * config.learning_rate)
        self.width: Width = check_width(config.width)
        self.module = self._built(lab)
        self._learners = [Learner(self.module.get_submodule(str(split))) for split in lab.splits]
        self.optimizers = [learner.optimizer for learner in self._learners]

    def _built(self, lab: Lab) -> nn.Module:
        config = self.config
        return build(lab.base, lab.splits, config.norm_start, self.width, config.start, config.exit_layers)

    def normed(self, batch: Batch) -> list[Tensor]:
        """What every exit hands to the head, [counted, hidden] each."""
        assert isinstance(self.module, Balconies)
        return [one[batch.counted] for one in self.module.normed(batch.states.hidden, batch.states.context)]

    def target(self, batch: Batch) -> Likeliest:
        """What the exits are to say at the counted positions."""
        return batch.target

    def learn(self, step: int, batch: Batch) -> None:
        """As ``balcony-edge train`` takes a step."""
        rate = cosine(step, self.config.steps, self.config.learning_rate)
        exits = self.normed(batch)
        if self.config.loss_vocabulary:
            _, gradients = batch.vocabulary.loss(exits, self.target(batch))
        else:
            final, head, loss = batch.states.final[batch.counted], batch.base.head, self.config.loss_function
            _, gradients = chunked_loss(exits, final, head, loss, batch.following)
        torch.autograd.backward(exits, gradients)
        for learner in self._learners:
            learner.step(rate)

    def logits(self, batch: Batch) -> Iterator[tuple[Name, Tensor]]:
        """Every exit's logits."""
        for split, one in zip(self.config.splits, self.normed(batch), strict=True):
            yield (self.name, split), batch.base.head.logits(one)


class TextTaught(Student):
    """Exits that learn the next tokens of the text, as EE-Tuning's do (arXiv 2402.00518), over the loss vocabulary."""

    def target(self, batch: Batch) -> Likeliest:
        """The next token, with all of the share where there is one."""
        known = batch.following != NO_TARGET
        return Likeliest(batch.following.clamp(min=0)[:, None], known[:, None].float())


class SeveralStates(Student):
    """Exits that read the states of several layers up to their split, as EAGLE-3's draft head does (arXiv 2503.01840).

    Those of a third, of two thirds and of the whole way are joined and mapped to the base's width; the map begins as
    the state of the split alone.
    """

    def _built(self, lab: Lab) -> nn.Module:
        hidden = lab.base.blueprint.arch.hidden
        balconies = build(lab.base, lab.splits, self.config.norm_start)
        exits = {}
        for split in lab.splits:
            joint = nn.Linear(3 * hidden, hidden, bias=False)
            with torch.no_grad():
                joint.weight.zero_()[:, 2 * hidden :].copy_(torch.eye(hidden))
            exits[str(split)] = nn.ModuleList([joint, balconies.at(split)])
        return nn.ModuleDict(exits).float().requires_grad_(True).eval()

    def normed(self, batch: Batch) -> list[Tensor]:
        """What every exit hands to the head, [counted, hidden] each."""
        found = []
        for split in self.config.splits:
            joint, balcony = self.module.get_submodule(str(split)).children()
            read = [batch.states.hidden[depth] for depth in (max(1, split // 3), max(1, 2 * split // 3), split)]
            found.append(balcony(joint(torch.cat(read, -1)), batch.states.context)[batch.counted])
        return found


class MeanStart(Student):
    """Exits whose layer begins as the mean of the layers that it stands for."""

    def _built(self, lab: Lab) -> nn.Module:
        balconies = super()._built(lab)
        layers = [dict(layer.named_parameters()) for layer in lab.base.model.model.layers]
        assert isinstance(balconies, Balconies)
        for split in lab.splits:
            balcony: Balcony = balconies.at(split)
            with torch.no_grad():
                for name, value in balcony.layer.named_parameters():
                    value.copy_(torch.stack([layer[name].float() for layer in layers[split:]]).mean(0))
        return balconies
