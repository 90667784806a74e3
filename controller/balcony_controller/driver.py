"""The loop of one reply: the same for a session on a device and for replay on a simulated one.

``decode_step`` is one step: exits are looked at until tokens can be emitted. ``drive`` is the reply around it: pause,
step, account, signals, until the reply ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from balcony_controller.decider import Decider
from balcony_controller.signals import Signals
from balcony_controller.verdict import Confidence, Verdict

# One emitted token, as whoever decodes describes it.
Emission = TypeVar("Emission")
Emission_co = TypeVar("Emission_co", covariant=True)


class StepDecoder(Protocol[Emission_co]):
    """What a step asks of a ladder, real or recorded. ``full``: the depth of the whole model."""

    @property
    def full(self) -> int: ...

    def look(self, split: int) -> float | None:
        """Run up to the exit at ``split``; its gate's logit."""
        ...

    def ask(self, depth: int, takes_gate_draft: bool) -> Confidence | None:
        """The exit's next token becomes the candidate: how sure the exit is of it; None for its gate's draft."""
        ...

    def can_hold(self, most: int) -> bool:
        """Whether the candidate may wait for a deep pass, ``most`` tokens being wanted."""
        ...

    def take(self, expected: float) -> None:
        """The candidate joins the drafts of this step."""
        ...

    def go_on(self) -> None:
        """The next position follows the draft taken last."""
        ...

    def emit(self) -> Sequence[Emission_co]:
        """The drafts of this step leave unverified."""
        ...

    def deep_pass(self) -> Sequence[Emission_co]:
        """One batched pass at full depth: the drafts that it accepts, and one token of the full model's own."""
        ...


def decode_step(decider: Decider, decoder: StepDecoder[Emission], most: int) -> Sequence[Emission]:
    """The next tokens, one at least and ``most`` at the most, at the price of one deep pass at the most."""
    held = 0
    while True:
        split, gate = decider.first_split(), None
        while split != decoder.full:
            gate = decoder.look(split)
            following = decider.next_depth(split, gate)
            if following is None:
                break
            split = following
        else:
            return decoder.deep_pass()
        confidence = decoder.ask(split, decider.takes_gate_draft)
        verdict = decider.judge(split, gate, confidence, held)
        if verdict in (Verdict.HOLD, Verdict.VERIFY) and not decoder.can_hold(most):
            # A deep pass at this very position tells as much.
            verdict = Verdict.DEEPEN
        if verdict is Verdict.DEEPEN:
            return decoder.deep_pass()
        decoder.take(decider.expected)
        if verdict is Verdict.EMIT:
            return decoder.emit()
        decoder.go_on()
        if verdict is Verdict.VERIFY:
            return decoder.deep_pass()
        held += 1


class Machine(Protocol[Emission_co]):
    """What a reply runs on. ``ended``: the reply is over, by an end token or because somebody else needs the ladder."""

    @property
    def ended(self) -> bool: ...

    def pause(self, pause_ms: float) -> None:
        """Let time go by without decoding."""
        ...

    def step(self, most: int) -> tuple[Sequence[Emission_co], float]:
        """(tokens, milliseconds they took) of one step that emits ``most`` tokens at the most."""
        ...

    def signals(self) -> Signals | None:
        """A new look at the machine, if there is one since the last."""
        ...


@dataclass(frozen=True)
class Step(Generic[Emission]):
    """``emitted`` tokens, the milliseconds that they took and the pause before them.

    ``first``: the reply's first step, whose time is the prompt's.
    """

    emitted: Sequence[Emission]
    elapsed_ms: float
    pause_ms: float
    first: bool


def drive(
    decider: Decider,
    machine: Machine[Emission],
    pending: Mapping[str, int],
    most: int,
    *,
    repeatable: bool = False,
    greedy: bool = True,
) -> Iterator[Step[Emission]]:
    """The steps of one reply of ``most`` tokens at the most; the other arguments are those of ``Decider.begin``."""
    decider.begin(pending, most, repeatable, greedy)
    first = True
    while most > 0 and not machine.ended and not decider.out_of_time:
        pause_ms = decider.pause_ms
        if pause_ms > 0.0:
            machine.pause(pause_ms)
        emitted, elapsed_ms = machine.step(most)
        decider.end_step(len(emitted), elapsed_ms, charge=not first)
        signals = machine.signals()
        if signals is not None:
            decider.observe_signals(signals)
        most -= len(emitted)
        yield Step(emitted, elapsed_ms, pause_ms, first)
        first = False
