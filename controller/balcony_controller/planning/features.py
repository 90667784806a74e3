"""What the controller can do without: a switch for each mechanism (see benchmarks/controller_ablation.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Features:
    """Which mechanisms are in use; all of them unless something else is said.

    ``openings``: replies open with deep tokens that savings pay for. ``changes``: another set of depths may be taken
    within a reply. ``pairs``: sets of two exits. ``gate_drafts``: tokens of the gate's few rows of the head.
    ``holding``: below lossless, drafts are held for a deep pass. ``feedback``: what deep passes find out corrects the
    exits' agreement. ``heat``: a limit on temperature is kept ahead of time, as a limit on power.
    """

    openings: bool = True
    changes: bool = True
    pairs: bool = True
    gate_drafts: bool = True
    holding: bool = True
    feedback: bool = True
    heat: bool = True


ALL = Features()
