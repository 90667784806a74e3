"""The controller: it decides how deep each token goes, so that a budget is kept with the most quality it can buy.

The package makes decisions only. It does no I/O and has no clock: times and sensor signals come in as arguments, so the
same objects run live on a device and in replay on a simulated one.

From top to bottom: ``governor`` is the controller that runs live. ``planning`` holds policies that are solved in
advance, and the selection among them. ``accounts`` and ``loads`` keep the budget, ``cost`` predicts times, ``quality``
predicts agreement, ``drafts`` keeps the state of one reply. ``budget``, ``signals``, ``shape`` and ``verdict`` are the
values that these exchange. ``decider`` is the protocol between a controller and the loop in ``driver``; ``fixed`` has
deciders without a controller. ``simulation`` replays recorded replies and compares the governor with baselines.
"""

from balcony_controller.accounts import Limits
from balcony_controller.budget import Budget, BudgetSyntaxError
from balcony_controller.cost import CostModel, StageProfile
from balcony_controller.decider import Decider
from balcony_controller.fixed import FixedDepth, FixedDrafts
from balcony_controller.governor import Governor
from balcony_controller.loads.meter import PowerModel
from balcony_controller.planning.clocks import Clock, ClockChoice
from balcony_controller.quality import Judge, QualityModel
from balcony_controller.shape import LadderShape
from balcony_controller.signals import Signals
from balcony_controller.verdict import Confidence, Outcome, Verdict

__all__ = [
    "Budget",
    "BudgetSyntaxError",
    "Clock",
    "ClockChoice",
    "Confidence",
    "CostModel",
    "Decider",
    "FixedDepth",
    "FixedDrafts",
    "Governor",
    "Judge",
    "LadderShape",
    "Limits",
    "Outcome",
    "PowerModel",
    "QualityModel",
    "Signals",
    "StageProfile",
    "Verdict",
]
