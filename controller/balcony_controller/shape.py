"""The shape of a ladder: which stages (graphs with a cache) a token of each depth needs."""

from __future__ import annotations

from dataclasses import dataclass

HEAD, DRAFT = "head", "draft"


@dataclass(frozen=True)
class LadderShape:
    """A ladder's depths and the names of its stages. Depths count layers of the base model.

    ``depths``: every depth a token can have, ascending; the last one is the whole model.
    ``trunk``: (name, depth at which it ends) of each segment of the base, from the bottom.
    ``exits``: the name of the exit stage at each depth but the last.
    ``drafts``: there is a draft stage, which guesses tokens from the full depth's last hidden state.
    """

    depths: tuple[int, ...]
    trunk: tuple[tuple[str, int], ...]
    exits: dict[int, str]
    drafts: bool = False

    @property
    def full(self) -> int:
        """The depth of the whole model."""
        return self.depths[-1]

    def segments(self, above: int, upto: int) -> list[str]:
        """The names of the trunk's segments between the depths ``above`` and ``upto``, from the bottom."""
        return [name for name, stop in self.trunk if above < stop <= upto]

    def stages(self, depth: int) -> list[str]:
        """The names of all stages that a token of ``depth`` must pass, from the bottom. The head is not among them."""
        names = self.segments(0, depth)
        return names if depth == self.full else [*names, self.exits[depth]]
