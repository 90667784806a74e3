"""The errors that balcony-edge raises on purpose. Each says what happened, why, and what to do next.

BalconyError
├── RuntimeMissingError   ONNX Runtime is missing, or two distributions overwrite each other
├── ModelError            a model folder or checkpoint cannot be used
├── DataError             training or evaluation text cannot be used
├── ExitsError            a folder of trained exits cannot be used
├── BundleError           a bundle is missing, broken or tampered with
├── VerifyError           a bundle does not compute what its model does, or cannot be compared with it
│   └── MemoryShortError  too little memory for the comparison (balcony_export.verification.reference)
├── HubError              a bundle cannot be sent to, or fetched from, the place where it is shared
├── PromptError           a prompt, or the settings of a reply, cannot be run
├── RecordingError        a sensor recording, reply records, a load trace or a decision log cannot be used
├── DeviceProfileError    a device profile is missing, malformed or cannot be written
├── SessionError          a session that is closed, or busy with a reply of another thread
├── StreamError           stdin is closed, or stdout is closed or full
├── BudgetError           a budget cannot be read, or this device lacks the signals that it needs
├── ClockError            a clock cannot be read or set
└── ProviderError         an execution provider was asked for and is not available

A wrong argument of a library call (a negative rate, an unknown signal) is a plain ValueError.
"""

from __future__ import annotations

from balcony_edge.system.terminal import clean

# Characters of a message: it may quote what somebody has written.
MOST_SAID = 3000


class BalconyError(Exception):
    """Base of all errors. ``message`` says what happened, ``hint`` what to do; ``str(error)`` has both.

    Both are cleaned: they may hold names and texts of files from elsewhere.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = (clean(text[:MOST_SAID]) for text in (message, hint))
        super().__init__(f"{self.message}\n  → {self.hint}" if hint else self.message)


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
    """A bundle that does not compute what its model does, or that cannot be compared with it.

    Its subclass MemoryShortError (in balcony_export, with the code that raises it) means: too little memory to compare.
    """


class HubError(BalconyError):
    """A bundle that cannot be sent to, or fetched from, the Hugging Face Hub or a shared folder."""


class PromptError(BalconyError):
    """A prompt that cannot be run: empty, too long, not in the vocabulary, or with settings out of range."""


class RecordingError(BalconyError):
    """A sensor recording, reply records, a load trace or a decision log that cannot be read or written."""


class DeviceProfileError(BalconyError):
    """A device profile that is missing, malformed or cannot be written."""


class BudgetError(BalconyError):
    """A budget that cannot be read, or that needs signals which this device lacks."""


class ClockError(BalconyError):
    """A clock that cannot be read or set, or what was changed of it cannot be put back."""


class ProviderError(BalconyError):
    """An execution provider (CPU, CUDA) that was asked for and is not available, or that a bundle does not fit."""


class SessionError(BalconyError):
    """A session that is closed, or that is busy with a reply of another thread."""


class StreamError(BalconyError):
    """A standard stream that cannot be used: stdin is closed, or stdout is closed or on a full disk."""
