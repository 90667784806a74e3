"""balcony-edge: one frozen language model at many depths, under a budget.

    from balcony_edge import AdaptiveSession

    with AdaptiveSession(budget="25ms") as session:
        print(session.generate("Once upon a time"))

Importing the package costs next to nothing: each name loads its module when it is first used. Nothing here imports
torch, transformers, onnx or huggingface_hub.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from balcony_controller import Budget
    from balcony_edge.bundle.folder import Bundle
    from balcony_edge.bundle.open import open_bundle
    from balcony_edge.decoding.reply import Reply, Token
    from balcony_edge.decoding.report import Report
    from balcony_edge.errors import (
        BalconyError,
        BudgetError,
        BundleError,
        ClockError,
        DataError,
        DeviceProfileError,
        ExitsError,
        HubError,
        ModelError,
        PromptError,
        ProviderError,
        RecordingError,
        RuntimeMissingError,
        SessionError,
        StreamError,
        VerifyError,
    )
    from balcony_edge.session import AdaptiveSession

# ONNX Runtime reads this when it is imported; child processes inherit it. "0" turns its telemetry on again.
if not os.environ.get("ORT_DISABLE_TELEMETRY"):
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"

__all__ = [
    "AdaptiveSession",
    "BalconyError",
    "Budget",
    "BudgetError",
    "Bundle",
    "BundleError",
    "ClockError",
    "DataError",
    "DeviceProfileError",
    "ExitsError",
    "HubError",
    "ModelError",
    "PromptError",
    "ProviderError",
    "RecordingError",
    "Reply",
    "Report",
    "RuntimeMissingError",
    "SessionError",
    "StreamError",
    "Token",
    "VerifyError",
    "open_bundle",
]

# Which module defines each name.
_HOMES = {
    "AdaptiveSession": "session",
    "Reply": "decoding.reply",
    "Token": "decoding.reply",
    "Bundle": "bundle.folder",
    "open_bundle": "bundle.open",
    "Report": "decoding.report",
    **{name: "errors" for name in __all__ if name.endswith("Error")},
}


def __getattr__(name: str) -> Any:
    if name == "Budget":
        return import_module("balcony_controller").Budget
    if name in _HOMES:
        return getattr(import_module(f"balcony_edge.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
