"""The decision log: one JSON line for each step of decoding, with what the governor decided and why."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from balcony_controller import Governor, Signals
from balcony_edge.errors import RecordingError
from balcony_edge.files.writing import open_lines

KIND = "balcony-edge decisions"


class DecisionLog:
    """Writes a decision log to ``path``. Each line is written at once, so it is there even if the process dies.

    ``keeps_text``: whether the tokens' texts are written too; else nobody can read from it what was said.

    Raises RecordingError if the file cannot be written, also from its methods.
    """

    def __init__(self, path: Path, keeps_text: bool = False) -> None:
        self.path, self._keeps_text = path, keeps_text
        self._token = 0
        try:
            self._file: TextIO = open_lines(path)
        except OSError as error:
            raise RecordingError(
                f"cannot write {path}: {error}", "name a file in a folder that can be written"
            ) from error

    def start(self, governor: Governor) -> None:
        """Write the first line: the budget, the depths and the least agreement that decisions are made for."""
        self._write(
            {
                "kind": KIND,
                "version": 1,
                "budget": str(governor.budget),
                "budget_ms": governor.budget.latency_ms,
                "depths": governor.shape.depths,
                "min_agreement": governor.min_agreement,
            }
        )

    def step(
        self,
        governor: Governor,
        depths: Sequence[int],
        elapsed_ms: float,
        signals: Signals,
        texts: Sequence[str] = (),
        drafted: Sequence[int | None] = (),
    ) -> None:
        """Write one step: it emitted tokens of these ``depths`` in ``elapsed_ms``, under these ``signals``.

        ``texts``: the tokens' texts. ``drafted``: the exits that drafted them, None for the others.
        """
        said = {"texts": list(texts)} if self._keeps_text and texts else {}
        self._write(
            {
                "token": self._token,
                "tokens": len(depths),
                "depths": list(depths),
                "drafted": list(drafted),
                **said,
                "elapsed_ms": elapsed_ms,
                "pause_ms": governor.pause_ms,
                "full_ms": governor.full_ms,
                **({} if governor.clocks is None else {"clock": governor.clocks.clock.name}),
                "slowdown": governor.cost.slowdown.factor,
                "allowance_ms": governor.allowance_ms,
                "debt_ms": governor.overspend_ms,
                "price_per_ms": governor.price,
                "set": list(governor.policy.depths),
                "lossless": governor.lossless,
                "cut": governor.cut,
                "floor_wins": governor.floor_wins,
                "expected": governor.expected,
                "gates_draft": governor.takes_gate_draft,
                "options": dict(governor.options),
                "signals": {name: value for name, value in asdict(signals).items() if value is not None},
            }
        )
        self._token += len(depths)

    def close(self) -> None:
        """Close the file. What could not be written is tried again, and may fail again."""
        try:
            self._file.close()
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> DecisionLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, content: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(_plain(content)) + "\n")
        except OSError as error:
            with contextlib.suppress(OSError):  # closing tries to write the same again
                self._file.close()
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> RecordingError:
        return RecordingError(f"cannot write {self.path}: {error.strerror or error}", "make room, or leave --log out")


def _plain(value: Any) -> Any:
    """The value with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
