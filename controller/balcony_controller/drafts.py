"""The state of a reply in progress: the drafts held, and the positions that each stage has not consumed yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from balcony_controller.cost import StageProfile
from balcony_controller.shape import DRAFT, LadderShape


class Drafts:
    """What the governor knows about the drafts held now.

    ``count``: how many there are. ``prefix``: probability that all of them are right.
    ``accepted``: how many a deep pass is expected to accept.
    ``right``: how many are expected to agree with the full model if all are emitted unverified.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """No draft is held any more."""
        self.count = 0
        self.prefix = 1.0
        self.accepted = 0.0
        self.right = 0.0

    def add(self, chance: float) -> None:
        """Hold one more draft, which is right with probability ``chance`` if those before it are."""
        self.count += 1
        self.prefix *= chance
        self.accepted += self.prefix
        self.right += chance


class Backlog:
    """How many positions each stage has not consumed, and what catching up costs.

    A stage that shallow tokens skip must consume their positions before a deeper token can use it.
    """

    def __init__(self, shape: LadderShape, profiles: Mapping[str, StageProfile]) -> None:
        self._bottom = shape.trunk[0][0]
        self._profiles = profiles
        names = [*(name for name, _ in shape.trunk), *shape.exits.values(), *([DRAFT] if shape.drafts else [])]
        self._slopes = {name: profiles[name].slope_ms for name in names}
        # Both are counted in positions from the end of the prompt.
        self._length = 0
        self._consumed = dict.fromkeys(self._slopes, 0)

    def begin(self, pending: Mapping[str, int]) -> None:
        """A reply begins. ``pending``: how many positions of the prompt each stage has not consumed."""
        self._length = -pending.get(self._bottom, 0)
        self._consumed = {name: -pending.get(name, 0) for name in self._slopes}

    def ran(self, stage: str, positions: int) -> None:
        """A stage has run, so it lacks no position now. ``positions`` counts only at the lowest stage.

        The lowest stage runs at every position; where it is, is where the text ends.
        """
        if stage in self._consumed:
            if stage == self._bottom:
                self._length += positions
            self._consumed[stage] = self._length

    def owed_ms(self, stages: Iterable[str]) -> float:
        """Profiled milliseconds of catching up ``stages``: the share of their missing positions in batched calls."""
        length, consumed, slopes = self._length, self._consumed, self._slopes
        owed_ms = 0.0
        for name in stages:
            owed_ms += slopes[name] * (length - consumed[name])
        return owed_ms

    def step_ms(self, stages: Iterable[str], more: int = 0) -> float:
        """Profiled milliseconds of running ``stages`` now: what they lack, the next position, and ``more``."""
        length, consumed, profiles = self._length, self._consumed, self._profiles
        return sum(profiles[name].ms(length - consumed[name] + 1 + more) for name in stages)
