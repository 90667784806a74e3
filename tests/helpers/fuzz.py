"""Fuzzing of whatever reads files: each of many broken ones ends in a result or in an explained error."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from balcony_edge.cli.app import app
from balcony_edge.errors import BalconyError
from helpers.mutations import Mutation, limited

# The long run takes hours of a core; CI makes it shorter.
SHORT, LONG = 60, int(os.environ.get("BALCONY_MUTATIONS", "20000"))


def fuzz(good: bytes, mutate: Mutation, use: Callable[[bytes], object], count: int, seed: int = 22) -> int:
    """Use ``count`` broken versions of a good content; returns how many were taken. Each has 10 seconds.

    ``use`` may raise a BalconyError with a next step, and nothing else.
    """
    rng = np.random.default_rng(seed)
    taken = 0
    for number in range(count):
        content = mutate(good, rng)
        try:
            with limited():
                use(content)
            taken += 1
        except BalconyError as error:
            if not error.hint:
                raise AssertionError(f"number {number} has no next step: {error}") from error
        except BaseException as error:
            raise AssertionError(f"number {number}: {type(error).__name__}: {error}\n{content[:2000]!r}") from error
    return taken


def written(path: Path, use: Callable[[Path], object]) -> Callable[[bytes], object]:
    """What uses a file, as something that uses its content."""

    def use_content(content: bytes) -> object:
        path.write_bytes(content)
        return use(path)

    return use_content


def verb(*arguments: str | Path) -> str:
    """Run a verb of the command line in this process; returns its output. What it raises comes out."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    return result.output
