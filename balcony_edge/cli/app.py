"""``balcony-edge``: collects the verbs, and turns errors into one clear message and an exit code."""

from __future__ import annotations

import sys
from importlib import metadata

import typer

import balcony_edge
from balcony_edge.cli.bench import bench
from balcony_edge.cli.demo import demo
from balcony_edge.cli.doctor import doctor
from balcony_edge.cli.explain import explain
from balcony_edge.cli.inspect import inspect
from balcony_edge.cli.models import models
from balcony_edge.cli.profile import profile
from balcony_edge.cli.replay import replay
from balcony_edge.cli.run import run
from balcony_edge.cli.share import pull, push
from balcony_edge.cli.watch import watch
from balcony_edge.errors import BalconyError

GROUP = "balcony_edge.commands"

app = typer.Typer(
    name="balcony-edge",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Run one frozen language model at many depths, under a budget of time, power or battery.",
)
for verb in (run, demo, models, bench, replay, explain, inspect, push, pull, doctor, watch, profile):
    app.command()(verb)


def _version(wanted: bool) -> None:
    if wanted:
        print(balcony_edge.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def add_plugins(to: typer.Typer) -> None:
    """Add the verbs that installed packages offer as entry points, such as train and export.

    A verb that hands its arguments to another program has an attribute ``context_settings`` (click's).
    """
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        verb = entry.load()
        to.command(name=entry.name, context_settings=getattr(verb, "context_settings", None))(verb)


def repeat_options(arguments: list[str], names: tuple[str, ...] = ("--data", "--heldout")) -> list[str]:
    """Turn ``--data a b`` into ``--data a --data b``: a shell's wildcard expands to the first form."""
    repeated: list[str] = []
    current = ""
    fresh = False
    for argument in arguments:
        if argument.startswith("-"):
            current, fresh = (argument, True) if argument in names else ("", False)
        elif current and not fresh:
            repeated.append(current)
        elif current:
            fresh = False
        repeated.append(argument)
    return repeated


def main() -> None:
    """The console script. Exit codes: 0 done, 1 an explained error, 2 wrong usage, 130 interrupted."""
    try:
        add_plugins(app)
        app(args=repeat_options(sys.argv[1:]))
    except BalconyError as error:
        print(f"balcony-edge: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read stdout (a pager, head) has ended.
        sys.stderr.close()
        sys.exit(0)
