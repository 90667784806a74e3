"""The budget that a user sets: what tokens may cost, in time, power, energy, battery or share of the GPU.

A budget is written as a text of this grammar:

budget    full | term {"," term}           each kind of term at most once, in any order
term      25ms  40tok/s                    mean time per token
          25ms@p95                         a time that 95 % of the tokens must keep
          2s@reply                         time of the whole reply, its prompt included
          8W  500mW                        mean power of the device
          0.4J  400mJ                      mean energy per token
          3h  90min                        the battery must last this long from now
          battery=20%@3h                   … and still hold 20 % of its charge then
          gpu=60%                          load of the GPU, other programs included
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, replace
from functools import cached_property

FORMS = (
    "25ms (mean per token), 40tok/s, 25ms@p95, 2s@reply, 8W, 0.4J (per token), 3h (battery), battery=20%@3h, gpu=60%, "
    "several joined by commas, or full"
)
NUMBER = re.compile(r"\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?", re.IGNORECASE)
UNIT = re.compile(r"[^\d\s,@=%.+-][^\s,@=%]*|%")
# Unit → (kind, factor to the kind's base unit: seconds, tokens a second, watts, joules, a share of 1).
UNITS = {
    "ms": ("time", 1e-3),
    "s": ("time", 1.0),
    "min": ("time", 60.0),
    "h": ("time", 3600.0),
    "tok/s": ("rate", 1.0),
    "w": ("power", 1.0),
    "mw": ("power", 1e-3),
    "j": ("energy", 1.0),
    "mj": ("energy", 1e-3),
    "%": ("share", 1e-2),
}


class BudgetSyntaxError(ValueError):
    """A text that is not a budget. ``column`` is the index (from 0) of the first character that does not fit.

    The message shows the text with a mark below that character, the reason, and the forms that a budget can have.
    """

    def __init__(self, text: str, column: int, why: str) -> None:
        self.text = text
        self.column = column
        super().__init__(
            f"cannot read the budget {text!r} at character {column + 1}: {why}\n"
            f"    {text}\n    {' ' * column}^\n  forms: {FORMS}"
        )


@dataclass(frozen=True)
class Budget:
    """Limits that all hold at the same time. None means no limit of that kind.

    ``latency_ms``: mean milliseconds per token.
    ``tail_ms``: milliseconds that a share ``tail_quantile`` (0..1) of the tokens must not exceed.
    ``reply_s``: seconds for the whole reply, its prompt included.
    ``power_w``: mean watts of the device.
    ``energy_j``: mean joules per token.
    ``battery_h``: hours that the battery must last; ``battery_floor`` (0..1): the charge that it must have then.
    ``gpu_share`` (0..1): load of the GPU, other programs included.
    """

    latency_ms: float | None = None
    tail_ms: float | None = None
    tail_quantile: float = 0.95
    reply_s: float | None = None
    power_w: float | None = None
    energy_j: float | None = None
    battery_h: float | None = None
    battery_floor: float = 0.0
    gpu_share: float | None = None

    @classmethod
    def parse(cls, text: str | Budget | None) -> Budget:
        """The budget that ``text`` describes; None and "full" give one without limits. Raises BudgetSyntaxError."""
        if isinstance(text, Budget):
            return text
        if text is None or text.strip().lower() == "full":
            return cls()
        return _Reader(text).budget()

    @cached_property
    def unlimited(self) -> bool:
        """Whether there is no limit at all."""
        return self == Budget()

    def __str__(self) -> str:
        terms = []
        if self.latency_ms is not None:
            terms.append(f"{number(self.latency_ms)}ms")
        if self.tail_ms is not None:
            terms.append(f"{number(self.tail_ms)}ms@p{percent(self.tail_quantile)}")
        if self.reply_s is not None:
            terms.append(f"{number(self.reply_s)}s@reply")
        if self.power_w is not None:
            terms.append(f"{number(self.power_w)}W")
        if self.energy_j is not None:
            terms.append(f"{number(self.energy_j)}J")
        if self.battery_h is not None:
            floor = f"battery={percent(self.battery_floor)}%@" if self.battery_floor else ""
            terms.append(f"{floor}{number(self.battery_h)}h")
        if self.gpu_share is not None:
            terms.append(f"gpu={percent(self.gpu_share)}%")
        return ",".join(terms) or "full"


def number(value: float) -> str:
    """The shortest text that reads back as ``value``, without a trailing ".0"."""
    return repr(float(value)).removesuffix(".0")


def percent(share: float) -> str:
    """The shortest percentage that reads back as ``share``."""
    texts = (number(float(f"{share * 100:.{digits}g}")) for digits in range(1, 18))
    return next((text for text in texts if _share(float(text) / 100.0) == share), number(share * 100))


class _Reader:
    """Reads one text from left to right; ``at`` is the index of the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def budget(self) -> Budget:
        budget = Budget()
        while True:
            self._space()
            start = self.at
            term = self._term()
            for name in term:
                if getattr(budget, name) != _DEFAULTS[name]:
                    raise self._error(start, "this kind of limit is already given")
            budget = replace(budget, **term)
            self._space()
            if self.at == len(self.text):
                return budget
            if not self._take(","):
                raise self._error(self.at, "a comma or the end is expected")

    def _term(self) -> dict[str, float]:
        word = re.compile(r"(gpu|battery)\s*=\s*", re.IGNORECASE).match(self.text, self.at)
        if not word:
            return self._plain()
        self.at = word.end()
        start = self.at
        value, kind = self._quantity()
        if kind != "share":
            raise self._error(start, "a percentage is expected, such as 60%")
        if value > 1.0:
            raise self._error(start, "more than 100 %")
        if word[1].lower() == "gpu":
            return {"gpu_share": _share(value)}
        if value == 1.0:
            raise self._error(start, "a battery that must stay full cannot be used")
        if not self._take("@"):
            raise self._error(self.at, "how long the battery must last is missing, as in battery=20%@3h")
        start = self.at
        seconds, kind = self._quantity()
        if kind != "time":
            raise self._error(start, "a time is expected, such as 3h")
        return {"battery_floor": _share(value), "battery_h": self._hours(seconds)}

    def _plain(self) -> dict[str, float]:
        start = self.at
        value, kind, unit_at = *self._quantity(), self._unit_at
        if kind == "rate":
            return {"latency_ms": 1e3 / value}
        if kind == "power":
            return {"power_w": value}
        if kind == "energy":
            return {"energy_j": value}
        if kind == "share":
            raise self._error(start, "of what? gpu=60% or battery=20%@3h")
        unit = self._unit
        if self._take("@"):
            return self._target(value)
        if unit in ("h", "min"):
            return {"battery_h": self._hours(value)}
        if unit == "s":
            raise self._error(unit_at, "a time of one token is in ms; a whole reply's is 2s@reply")
        return {"latency_ms": value * 1e3 if unit != "ms" else self._number}

    def _target(self, seconds: float) -> dict[str, float]:
        self._space()
        start = self.at
        word = re.compile(r"[a-z0-9.]+", re.IGNORECASE).match(self.text, self.at)
        target = word[0].lower() if word else ""
        self.at += len(target)
        if target == "reply":
            return {"reply_s": seconds}
        quantile = re.fullmatch(r"p(\d+(?:\.\d+)?)", target)
        if not quantile or not 0.0 < float(quantile[1]) < 100.0:
            raise self._error(start, "p95 (a share of the tokens, below 100) or reply is expected")
        milliseconds = self._number if self._unit == "ms" else seconds * 1e3
        return {"tail_ms": milliseconds, "tail_quantile": _share(float(quantile[1]) / 100.0)}

    def _quantity(self) -> tuple[float, str]:
        """Read a number with its unit: (value in the kind's base unit, kind)."""
        self._space()
        start = self.at
        found = NUMBER.match(self.text, start)
        if not found:
            raise self._error(start, "a number is expected")
        value = float(found[0])
        if not math.isfinite(value) or value <= 0:
            raise self._error(start, "the number must be above zero")
        self.at = found.end()
        self._space()
        unit = UNIT.match(self.text, self.at)
        if not unit:
            raise self._error(self.at, "a unit is missing")
        name = unit[0].lower()
        if name not in UNITS:
            raise self._error(self.at, f"unknown unit {unit[0]!r}")
        self._number, self._unit, self._unit_at = value, name, self.at
        self.at = unit.end()
        kind, factor = UNITS[name]
        scaled = value * factor
        if not (math.isfinite(1e3 / scaled) and math.isfinite(scaled * 1e3) and scaled / 3600.0 > 0.0):
            raise self._error(start, "the number is out of range")
        return scaled, kind

    def _hours(self, seconds: float) -> float:
        return self._number if self._unit == "h" else seconds / 3600.0

    def _space(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def _take(self, character: str) -> bool:
        self._space()
        taken = self.text[self.at : self.at + 1] == character
        self.at += taken
        return taken

    def _error(self, column: int, why: str) -> BudgetSyntaxError:
        return BudgetSyntaxError(self.text, column, why)


def _share(value: float) -> float:
    """``value`` without the rounding error that dividing a percentage by 100 leaves in the last bits."""
    return round(value, 15)


_DEFAULTS = {field.name: field.default for field in fields(Budget)}
