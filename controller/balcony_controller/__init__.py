"""Pure decisions: budget, cost model, quality model, plan, price and the governor that joins them.

No I/O and no clock: time and signals come in as arguments, so that the same objects run live and in replay.
"""

from balcony_controller.budget import Budget, BudgetSyntaxError
from balcony_controller.cost import CostModel, StageProfile
from balcony_controller.governor import Governor
from balcony_controller.quality import QualityModel
from balcony_controller.shape import LadderShape
from balcony_controller.verdict import Confidence, Outcome, Verdict

__all__ = [
    "Budget",
    "BudgetSyntaxError",
    "Confidence",
    "CostModel",
    "Governor",
    "LadderShape",
    "Outcome",
    "QualityModel",
    "StageProfile",
    "Verdict",
]
