"""The protocol between what decides about depth and the loop that decodes.

The governor, fixed depths and all baselines of replay are deciders. Sessions, benchmarks and replay drive them alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from balcony_controller.signals import Signals
from balcony_controller.verdict import Confidence, Found, Outcome, Verdict


class Decider(Protocol):
    """Decides how deep each token of a reply goes, and whether it is emitted, held or verified.

    The loop calls, for each step, ``lookup`` with what the text offers as drafts. If none are taken and there is a
    draft stage that knows the full depth's last hidden state, it calls ``wants_guess`` and ``holds_guess`` for each
    guess. If none is held it calls, for each token: ``first_split``; then ``next_depth`` at each exit, until it returns
    None or the full depth; then ``judge`` with the token of the exit that was taken. It reports every graph run
    (``observe_run``), every deep pass (``looked_up``, ``guessed``, ``verified``), every step, which is what happens
    from one emission to the next (``end_step``), and every new reading of the sensors (``observe_signals``). Times are
    milliseconds by the clock.
    """

    @property
    def expected(self) -> float:
        """Probability (0..1) that the token judged last is the full model's. ``verified`` gets it back (Outcome)."""
        ...

    @property
    def takes_gate_draft(self) -> bool:
        """Whether the exit just taken gives its gate draft instead of its token, so that the head is not run."""
        ...

    @property
    def pause_ms(self) -> float:
        """Milliseconds to wait before the next step."""
        ...

    @property
    def wanted_clock(self) -> int | None:
        """The clock that the device should have from the next step on, as an index; None: whichever it has."""
        ...

    @property
    def out_of_time(self) -> bool:
        """Whether the reply must end now because its deadline leaves no time for another token."""
        ...

    def begin(self, pending: Mapping[str, int], remaining: int, repeatable: bool = False, greedy: bool = True) -> None:
        """A reply begins.

        ``pending``: how many positions of the prompt each stage has not consumed, by stage name.
        ``remaining``: how many tokens the reply has at most.
        ``repeatable``: without a budget, decisions must not depend on measured times.
        ``greedy``: tokens are the likeliest ones, not sampled.
        """
        ...

    def lookup(self, found: Found) -> int:
        """How many of the drafts that the text offers are to be verified in a deep pass now; 0: none."""
        ...

    def looked_up(self, found: Found, checked: int, accepted: int) -> None:
        """A deep pass has compared ``checked`` of them with the full model's; the first ``accepted`` were right."""
        ...

    @property
    def may_guess(self) -> bool:
        """Whether the draft stage may be of use in this reply, and should read the prompt with the first step."""
        ...

    def wants_guess(self, held: int) -> bool:
        """Whether the draft stage is to guess the next token, ``held`` of its guesses being held."""
        ...

    def holds_guess(self, top: float) -> bool:
        """Whether its guess, of log-probability ``top``, is to be held for a deep pass."""
        ...

    def guessed(self, checked: int, accepted: int) -> None:
        """A deep pass has compared ``checked`` guesses with the full model's; the first ``accepted`` were right."""
        ...

    def first_split(self) -> int:
        """The depth whose exit the next token is tried at first; full depth where no exit is worth trying."""
        ...

    def next_depth(self, split: int, gate_logit: float | None) -> int | None:
        """The depth to go on to, now that the gate at ``split`` has given ``gate_logit``; None to take this exit."""
        ...

    def judge(self, depth: int, gate_logit: float | None, confidence: Confidence | None, held: int = 0) -> Verdict:
        """What to do with the token that the exit at ``depth`` gives, ``held`` drafts being held before it.

        ``confidence`` is None for a gate draft.
        """
        ...

    def observe_run(self, stage: str, positions: int, elapsed_ms: float) -> None:
        """The graph of ``stage`` has run over ``positions`` positions in ``elapsed_ms``, within the present step."""
        ...

    def verified(self, outcomes: Iterable[Outcome]) -> None:
        """A deep pass has compared these tokens of exits with the full model's."""
        ...

    def end_step(self, tokens: int, elapsed_ms: float, charge: bool = True) -> None:
        """A step has emitted ``tokens`` and taken ``elapsed_ms``, pauses not included.

        ``charge`` is False for a reply's first step: its time is the prompt's and does not count against a budget per
        token.
        """
        ...

    def observe_signals(self, signals: Signals) -> None:
        """There is a new reading of the sensors."""
        ...

    def observe_clock(self, present: int | None) -> None:
        """The device has this clock from the next step on; None: nothing here sets clocks."""
        ...
