"""The language of chat templates, as transformers has it: Jinja in a sandbox, with a few words of its own.

A template comes with the model and can be anybody's program. The sandbox keeps it from Python, and what would make
gigabytes out of a few characters is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

# The longest text or list that an operation may make, and the most bits of a number.
MOST_ITEMS, MOST_BITS = 10_000_000, 10_000
# Methods and filters whose arguments say how long the result becomes.
PADDING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs"})
PADDING_FILTERS = ("center", "indent")


def compile_template(source: str) -> Template:
    """The template of a source text. Raises whatever Jinja or Python's own compiler raises for a broken one."""
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    for name in PADDING_FILTERS:
        environment.filters[name] = _bounded(FILTERS[name])
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda format: datetime.now().strftime(format),
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment.from_string(source)


class _Sandbox(ImmutableSandboxedEnvironment):
    # Intercepted operations are not folded while the template is compiled either.
    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_size(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        # The arguments' names are those of the method that this one overrides: a template may use "self" and "obj".
        if getattr(__obj, "__name__", "") in PADDING and isinstance(getattr(__obj, "__self__", None), str):
            _check_numbers(args, kwargs)
        return super().call(__context, __obj, *args, **kwargs)


class _Generation(Extension):
    """``{% generation %} … {% endgeneration %}``, which marks the assistant's text for training."""

    tags = {"generation"}  # noqa: RUF012, the attribute's type is Jinja's

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller: Macro) -> str:
        return str(caller())


class _Dict:
    """``dict`` in templates, without the type's attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """``namespace`` in templates, without attributes that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # a template may use the name "self"
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}: names must not begin with an underscore")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is. Jinja's own filter escapes what HTML needs escaped."""
    _check_numbers((indent,), {})
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    def checked(value: Any, *args: Any, **kwargs: Any) -> Any:
        _check_numbers(args, kwargs)
        return function(value, *args, **kwargs)

    return checked


def _check_numbers(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if any(isinstance(value, int) and value > MOST_ITEMS for value in (*args, *kwargs.values())):
        raise SecurityError(f"a text of more than {MOST_ITEMS} characters")


def _check_size(operator: str, left: Any, right: Any) -> None:
    """Raise SecurityError for an operation whose result is unreasonably large."""
    if operator == "%":
        if isinstance(left, str) and any(int(number) > MOST_ITEMS for number in re.findall(r"\d{6,}", left[:10_000])):
            raise SecurityError(f"a text of more than {MOST_ITEMS} characters")
        if isinstance(left, str) and "*" in left:
            _check_numbers(right if isinstance(right, tuple) else (right,), {})
        return
    numbers = isinstance(left, int) and isinstance(right, int)
    if numbers and operator == "**":
        bits = left.bit_length() * max(0, right)
    elif numbers:
        bits = left.bit_length() + right.bit_length()
    else:
        bits = 0
        for items, count in ((left, right), (right, left)):
            if isinstance(items, str | list | tuple) and isinstance(count, int) and len(items) * count > MOST_ITEMS:
                raise SecurityError(f"more than {MOST_ITEMS} characters or items")
    if bits > MOST_BITS:
        raise SecurityError(f"a number of more than {MOST_BITS} bits")
