"""Every error that balcony-edge raises on purpose: what happened, why, and the next thing to do.

BalconyError
├── RuntimeMissingError   no ONNX Runtime, or two that overwrite each other
├── ModelError            a model folder or checkpoint that cannot be used
├── DataError             training or evaluation text that cannot be used
├── ExitsError            a folder of trained exits that cannot be used
├── BundleError           a bundle that is missing, broken or tampered with
├── VerifyError           a bundle that does not compute what its model does, or cannot be compared with it
├── HubError              a bundle that cannot be sent to, or had from, where it is shared
├── RecordingError           records, traces or decision logs that cannot be used
├── PromptError           a prompt that cannot be run
├── RecordingError            a recording of sensors that cannot be written or played
├── DeviceProfileError    a device profile that is missing or malformed
├── BudgetError           a budget that cannot be read or cannot be kept on this device
└── ProviderError         an execution provider that was asked for and not obtained
"""

from __future__ import annotations


class BalconyError(Exception):
    """Base of all. ``str(error)`` is one paragraph: the message, then the next step."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message}\n  → {hint}" if hint else message)


class RuntimeMissingError(BalconyError):
    """ONNX Runtime is not installed, or two distributions of it share one folder."""


class ModelError(BalconyError):
    """A model folder or checkpoint that cannot be used."""


class DataError(BalconyError):
    """Training or evaluation text that cannot be used."""


class ExitsError(BalconyError):
    """A folder of trained exits that cannot be used."""


class BundleError(BalconyError):
    """A bundle that is missing, broken or tampered with."""


class VerifyError(BalconyError):
    """A bundle that does not compute what its model does, or that cannot be compared with it."""


class HubError(BalconyError):
    """A bundle that cannot be sent to, or had from, the Hugging Face Hub or a shared folder."""


class PromptError(BalconyError):
    """A prompt that cannot be run."""


class RecordingError(BalconyError):
    """A recording of sensors or of replies, a load trace or a log of decisions that cannot be read or written."""


class DeviceProfileError(BalconyError):
    """A device profile that is missing, malformed or cannot be written."""


class BudgetError(BalconyError):
    """A budget that cannot be read, or that this device cannot measure."""


class ProviderError(BalconyError):
    """An execution provider that was asked for and not obtained."""
