"""The loop of one reply, the same for a session on a device and for replay on a simulated one.

``decode_step`` is one step: it runs exits until tokens can be emitted. ``drive`` is the reply around it: pause, step,
tell the decider about the step and about new signals, set the clock that it wants, and so on until the reply ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from balcony_controller.decider import Decider
from balcony_controller.signals import Signals
from balcony_controller.verdict import Confidence, Found, Verdict

# An emitted token. What it holds is up to the decoder.
Emission = TypeVar("Emission")
Emission_co = TypeVar("Emission_co", covariant=True)


class StepDecoder(Protocol[Emission_co]):
    """What a step needs of a ladder, real or recorded. ``full``: the depth of the whole model."""

    @property
    def full(self) -> int: ...

    def lookup(self, most: int) -> Found:
        """What the text offers as drafts, where the step may emit ``most`` tokens."""
        ...

    def hold_lookup(self, count: int) -> None:
        """Hold the first ``count`` of these drafts."""
        ...

    def can_guess(self, most: int) -> bool:
        """Whether the draft stage can guess the next token, where the step may emit ``most`` tokens."""
        ...

    def guess(self) -> float:
        """Let the draft stage guess the next token; returns the log-probability that it gives it."""
        ...

    def hold_guess(self) -> None:
        """Hold this guess, so that the next one follows it."""
        ...

    def look(self, split: int) -> float | None:
        """Run the stages up to the exit at ``split``; returns its gate's logit, None without a gate."""
        ...

    def ask(self, depth: int, takes_gate_draft: bool) -> Confidence | None:
        """Make the next token of the exit at ``depth`` the candidate; returns how sure the exit is of it.

        With ``takes_gate_draft`` the candidate is the gate draft, if there is one; the result is then None.
        """
        ...

    def can_hold(self, most: int) -> bool:
        """Whether the candidate may be held as a draft, where the step may emit ``most`` tokens."""
        ...

    def take(self, expected: float) -> None:
        """Add the candidate to the drafts of this step; ``expected`` is its predicted agreement (0..1)."""
        ...

    def go_on(self) -> None:
        """Append the draft taken last to the text, so that the next position can be run."""
        ...

    def emit(self) -> Sequence[Emission_co]:
        """Emit the drafts of this step unverified."""
        ...

    def deep_pass(self) -> Sequence[Emission_co]:
        """Run one batched pass at full depth; emits the drafts that it accepts and one token of the full model."""
        ...


def decode_step(decider: Decider, decoder: StepDecoder[Emission], most: int) -> Sequence[Emission]:
    """The next tokens: at least one and at most ``most``. It makes at most one deep pass."""
    if count := decider.lookup(decoder.lookup(most)):
        decoder.hold_lookup(count)
        return decoder.deep_pass()
    held = 0
    while decoder.can_guess(most) and decider.wants_guess(held) and decider.holds_guess(decoder.guess()):
        decoder.hold_guess()
        held += 1
    if held:
        return decoder.deep_pass()
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
            # A deep pass at this position gives the full model's token, which is all that verifying could.
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
    """What a reply runs on. ``ended``: it is over, by an end token or because another reply has taken the ladder."""

    @property
    def ended(self) -> bool: ...

    def pause(self, pause_ms: float) -> None:
        """Let ``pause_ms`` milliseconds pass without decoding."""
        ...

    def step(self, most: int) -> tuple[Sequence[Emission_co], float]:
        """Make one step that emits at most ``most`` tokens: (tokens, milliseconds that it took)."""
        ...

    def signals(self) -> Signals | None:
        """The latest reading of the sensors, if there is a new one since the last call."""
        ...

    def clock(self, wanted: int | None) -> int | None:
        """Set the device's clock to the ``wanted`` one where that is possible; returns the one in force."""
        ...


@dataclass(frozen=True)
class Step(Generic[Emission]):
    """One step: the tokens emitted, the milliseconds that it took, and the pause before it.

    ``first``: it is the reply's first step, whose time includes the prompt's.
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
    """Decode one reply of at most ``most`` tokens, step by step. The other arguments are those of ``Decider.begin``."""
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
        decider.observe_clock(machine.clock(decider.wanted_clock))
        most -= len(emitted)
        yield Step(emitted, elapsed_ms, pause_ms, first)
        first = False
