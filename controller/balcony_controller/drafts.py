"""What a reply in progress has open: drafts that are held, and positions that stages have not consumed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from balcony_controller.cost import StageProfile
from balcony_controller.shape import LadderShape


class Drafts:
    """The drafts held: ``count``, the probability ``prefix`` that all are right, how many a deep pass is expected to
    accept, and how many are right if each is shown as it is."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """None is held."""
        self.count = 0
        self.prefix = 1.0
        self.accepted = 0.0
        self.right = 0.0

    def add(self, chance: float) -> None:
        """One more, right with probability ``chance`` if those before it are."""
        self.count += 1
        self.prefix *= chance
        self.accepted += self.prefix
        self.right += chance


class Backlog:
    """How many positions each stage has not consumed, and what catching up costs."""

    def __init__(self, shape: LadderShape, profiles: Mapping[str, StageProfile]) -> None:
        self._bottom = shape.trunk[0][0]
        self._profiles = profiles
        self._slopes = {
            name: profiles[name].slope_ms for name in [*(name for name, _ in shape.trunk), *shape.exits.values()]
        }
        self._processed = 0
        self._seen = dict.fromkeys(self._slopes, 0)

    def begin(self, pending: Mapping[str, int]) -> None:
        """``pending``: positions of the prompt that each stage has not consumed."""
        self._processed = -pending.get(self._bottom, 0)
        self._seen = {name: -pending.get(name, 0) for name in self._slopes}

    def ran(self, stage: str, positions: int) -> None:
        """A stage has consumed all that it lacked, the lowest one ``positions``."""
        if stage in self._seen:
            if stage == self._bottom:
                self._processed += positions
            self._seen[stage] = self._processed

    def owed_ms(self, stages: Iterable[str]) -> float:
        """Profiled milliseconds of the positions that ``stages`` lack, as part of a batched call."""
        processed, seen, slopes = self._processed, self._seen, self._slopes
        owed_ms = 0.0
        for name in stages:
            owed_ms += slopes[name] * (processed - seen[name])
        return owed_ms

    def step_ms(self, stages: Iterable[str]) -> float:
        """Profiled milliseconds of running ``stages`` up to the next position."""
        processed, seen, profiles = self._processed, self._seen, self._profiles
        return sum(profiles[name].ms(processed - seen[name] + 1) for name in stages)
