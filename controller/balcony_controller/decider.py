"""What decides about depth: one protocol for the governor, for fixed depths and for everything played in replay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from balcony_controller.signals import Signals
from balcony_controller.verdict import Confidence, Outcome, Verdict


class Decider(Protocol):
    """Asked for each token, told of each graph run, step and look at the machine.

    One token: ``first_split``, then ``next_depth`` at each exit until it returns None (or full depth is reached), then
    ``judge`` of what that exit answers. ``observe_run`` follows each graph run, ``verified`` each deep pass,
    ``end_step`` each step that emitted tokens, ``observe_signals`` each new look at the machine.
    """

    @property
    def expected(self) -> float:
        """The agreement expected of the token judged last (0..1): the forecast to hand back to ``verified``."""
        ...

    @property
    def takes_gate_draft(self) -> bool:
        """Whether the exit just taken gives its gate's draft, for which the head is not run, instead of its token."""
        ...

    @property
    def pause_ms(self) -> float:
        """How long to wait before the next step."""
        ...

    @property
    def out_of_time(self) -> bool:
        """Whether the reply must end here: no time is left for another token."""
        ...

    def begin(self, pending: Mapping[str, int], remaining: int, repeatable: bool = False, greedy: bool = True) -> None:
        """A reply of at most ``remaining`` tokens begins; ``pending``: positions that each stage has not consumed."""
        ...

    def first_split(self) -> int:
        """The shallowest depth worth looking at; full depth where nothing else is."""
        ...

    def next_depth(self, split: int, gate_logit: float | None) -> int | None:
        """The next depth to look at after the gate at ``split`` has answered; None to take the exit here."""
        ...

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """What to do with the token that the exit at ``depth`` gives; ``confidence`` is None for a gate draft."""
        ...

    def observe_run(self, stage: str, positions: int, elapsed_ms: float) -> None:
        """A graph has run for the token in progress."""
        ...

    def verified(self, outcomes: Iterable[Outcome]) -> None:
        """A deep pass has compared tokens of exits with the full model's."""
        ...

    def end_step(self, tokens: int, elapsed_ms: float, charge: bool = True) -> None:
        """A step took ``elapsed_ms``, pauses not included, and emitted ``tokens``; a prompt's has no ``charge``."""
        ...

    def observe_signals(self, signals: Signals) -> None:
        """The latest look at the machine."""
        ...
