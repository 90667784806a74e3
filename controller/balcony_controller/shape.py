"""The shape of a ladder, as the controller sees it: which stages a token of each depth needs."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = "head"


@dataclass(frozen=True)
class LadderShape:
    """``depths`` ascending, the last one full; ``trunk[i]`` names the segments from the bottom, with where they stop.

    ``exits[depth]`` names the exit stage of a depth (the full depth has none).
    """

    depths: tuple[int, ...]
    trunk: tuple[tuple[str, int], ...]
    exits: dict[int, str]

    @property
    def full(self) -> int:
        """The depth of the whole model."""
        return self.depths[-1]

    def segments(self, above: int, upto: int) -> list[str]:
        """The trunk's stages that lie above depth ``above``, up to depth ``upto``."""
        return [name for name, stop in self.trunk if above < stop <= upto]

    def stages(self, depth: int) -> list[str]:
        """Every stage with a cache that a token of ``depth`` must advance."""
        names = self.segments(0, depth)
        return names if depth == self.full else [*names, self.exits[depth]]
