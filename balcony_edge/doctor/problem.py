"""What every check reports: problems, with a severity and the next thing to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How bad a problem is. The worst one is the exit code of ``doctor``: 0, 1 or 2."""

    INFO = 0
    """Worth knowing; everything works."""
    WARNING = 1
    """It works, but slower or less well than it could."""
    ERROR = 2
    """It does not work."""

    @property
    def word(self) -> str:
        """The printed word: info, warning or error."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Problem:
    """``what`` is wrong and why it matters; ``next``: the command to type, or what else to do."""

    severity: Severity
    what: str
    next: str


def worst(problems: Sequence[Problem]) -> Severity:
    """The highest severity; INFO if there is no problem."""
    return max((problem.severity for problem in problems), default=Severity.INFO)
