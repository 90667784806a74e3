"""A problem, as every check reports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """``doctor``'s exit code is that of the worst: 0, 1 or 2."""

    INFO = 0
    """Worth knowing; everything works."""
    WARNING = 1
    """It works, but slower or less well than it could."""
    ERROR = 2
    """It does not work."""

    @property
    def word(self) -> str:
        """As it is printed."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Problem:
    """``what`` is wrong and why it matters; ``next`` is the command to type, or the one thing to do."""

    severity: Severity
    what: str
    next: str


def worst(problems: Sequence[Problem]) -> Severity:
    """The highest severity; INFO where there is no problem."""
    return max((problem.severity for problem in problems), default=Severity.INFO)
