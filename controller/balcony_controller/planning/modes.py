"""How tokens are decoded now. The selector goes from one mode to another; each says what lets it in and what ends it.

a reply begins, or the budget changes
  ├─ the budget affords it ──────────────────────────→ Lossless
  ├─ else, savings pay for it and the rest is shallow → Opening ── over ──→ Mixed
  └─ else ────────────────────────────────────────────→ Mixed
Lossless ── debts, or a step that no longer fits ─────→ Mixed
Mixed ── the budget affords it again ─────────────────→ Lossless
"""

from __future__ import annotations

from dataclasses import dataclass

from balcony_controller.planning.policy import Setting


@dataclass(frozen=True)
class Mode:
    """``setting``: the policy in force, and where in its tables it is followed."""

    setting: Setting


@dataclass(frozen=True)
class Lossless(Mode):
    """Every token is the full model's: full depth alone, or rounds of drafts that a deep pass verifies.

    Begins where its tokens fit the budget without debts. Ends with debts of ``LOSSLESS_DEBT`` tokens, or sooner where
    tokens are suddenly too slow and catching up the exits would make such debts; where a limit on single tokens or a
    deadline leaves no time for full depth; or where the budget changes.
    """


@dataclass(frozen=True)
class Opening(Mode):
    """The first tokens of a reply are the full model's though the budget does not allow that throughout.

    Begins with a reply where earlier ones have saved for it and the mixed policy does without full depth. Ends after as
    many tokens as the savings can be back for by the end of the reply, or with its debts (see savings.py).
    """


@dataclass(frozen=True)
class Mixed(Mode):
    """Tokens of exits are emitted where that is worth more than going deeper, at the price that spends the budget.

    Begins where nothing else does. Its set of depths is reconsidered every ``CHOOSE_TOKENS`` tokens.
    """
