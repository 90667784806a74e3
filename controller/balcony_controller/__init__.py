"""Pure decisions: budget, cost model, quality model, policies, accounts and the governor that joins them.

No I/O and no clock: time and signals come in as arguments, so that the same objects run live and in replay.
"""

from balcony_controller.accounts import Limits, PowerModel
from balcony_controller.budget import Budget, BudgetSyntaxError
from balcony_controller.cost import CostModel, StageProfile
from balcony_controller.decider import Decider
from balcony_controller.fixed import FixedDepth, FixedDrafts
from balcony_controller.governor import Governor
from balcony_controller.quality import Judge, QualityModel
from balcony_controller.shape import LadderShape
from balcony_controller.signals import Signals
from balcony_controller.verdict import Confidence, Outcome, Verdict

__all__ = [
    "Budget",
    "BudgetSyntaxError",
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
