"""What ends a reply besides the model: token ids, and texts that may be spread over several tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from balcony_edge.errors import PromptError

Ending = Literal["end token", "stop", "length", "context", "deadline", "interrupted"]
"""Why a reply ended: the model's end token; a stop text or stop id; as many tokens as were asked for; a full context;
the time of its budget is over; or somebody ended it: its reader, an error, another reply, the session's end."""


class Stops:
    """The stops of one reply: ``ids``, and texts that are looked for as its text comes in.

    ``found``: whether a stop text was met. ``holds``: whether text waits, since it may be the beginning of a stop text.
    Raises PromptError for an empty text.
    """

    def __init__(self, stops: Iterable[int | str] = ()) -> None:
        given = list(stops)
        self.ids = frozenset(int(stop) for stop in given if not isinstance(stop, str))
        self._texts = [stop for stop in given if isinstance(stop, str)]
        if "" in self._texts:
            raise PromptError("an empty text cannot end a reply", "give the text to stop at: --stop TEXT")
        self._held = ""
        self.found = False

    @property
    def holds(self) -> bool:
        """Whether text waits for the next token."""
        return bool(self._held)

    def step(self, piece: str) -> str:
        """The text that may be given out now. A stop text and what follows it never is."""
        if self.found or not self._texts:
            return "" if self.found else piece
        text = self._held + piece
        first = _first(text, self._texts)
        if first >= 0:
            self.found, self._held = True, ""
            return text[:first]
        kept = _beginning(text, self._texts)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """What waited, at the end of the reply."""
        rest, self._held = self._held, ""
        return rest


def _first(text: str, stops: Sequence[str]) -> int:
    """Where the first of the stops begins in the text; -1 if none is there."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return min(places, default=-1)


def _beginning(text: str, stops: Sequence[str]) -> int:
    """The length of the longest end of the text with which one of the stops begins."""
    longest = max(map(len, stops))
    for size in range(min(longest - 1, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return size
    return 0
