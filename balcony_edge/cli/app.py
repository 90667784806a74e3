"""``balcony-edge``: collects the verbs, and turns errors into one clear message and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import typer

import balcony_edge
from balcony_edge.bundle.manifest import HUB_ID
from balcony_edge.cli.bench import bench
from balcony_edge.cli.calibrate import calibrate
from balcony_edge.cli.chat import chat
from balcony_edge.cli.demo import demo
from balcony_edge.cli.doctor import doctor
from balcony_edge.cli.explain import explain
from balcony_edge.cli.inspect import inspect
from balcony_edge.cli.models import models
from balcony_edge.cli.profile import profile
from balcony_edge.cli.replay import replay
from balcony_edge.cli.run import run
from balcony_edge.cli.serve import serve
from balcony_edge.cli.share import pull, push
from balcony_edge.cli.watch import watch
from balcony_edge.errors import BalconyError
from balcony_edge.files import streams
from balcony_edge.system.interrupt import noted

# Of files that --data and --heldout take, to tell them from Hub ids.
DATA_SUFFIXES = {".txt", ".md", ".jsonl", ".json", ".parquet", ".xz", ".gz"}
GROUP = "balcony_edge.commands"
NO_ROOM = ("failed to map segment", "Cannot allocate memory", "bad_alloc", "not enough memory", "can't allocate memory")
NO_MEMORY = "close other programs, raise the limit (ulimit -v, the container's), or use a smaller --max-context"

app = typer.Typer(
    name="balcony-edge",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Run one frozen language model at many depths, under a budget of time, power or battery.",
)
VERBS = (
    *(run, chat, serve, demo, models, bench, replay, explain, inspect, calibrate),
    *(push, pull, doctor, watch, profile),
)
for verb in VERBS:
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
        try:
            verb = entry.load()
        except Exception as error:  # somebody else's package: the other verbs go on
            verb = _broken(entry.name, error)
        to.command(name=entry.name, context_settings=getattr(verb, "context_settings", None))(verb)


def _broken(name: str, error: Exception) -> Callable[[], None]:
    """In place of a verb that cannot be loaded: one that says so."""

    def verb() -> None:
        raise BalconyError(
            f"the verb {name} cannot be loaded: {error}", "install the package that it is from again, with pip"
        ) from error

    verb.__doc__ = f"Cannot be loaded: {error}"
    verb.context_settings = {"allow_extra_args": True, "ignore_unknown_options": True}  # type: ignore[attr-defined]
    return verb


def repeat_options(arguments: list[str], names: tuple[str, ...] = ("--data", "--heldout")) -> list[str]:
    """Turn ``--data a b`` into ``--data a --data b``: a shell's wildcard expands to the first form.

    What can be no data, such as a folder, is the verb's own argument: ``--data a MODEL``.
    """
    repeated: list[str] = []
    current = ""
    fresh = False
    for argument in arguments:
        if argument.startswith("-"):
            current, fresh = (argument, True) if argument in names else ("", False)
        elif current and not fresh:
            if _is_model(argument):
                current = ""
            else:
                repeated.append(current)
        elif current:
            fresh = False
        repeated.append(argument)
    return repeated


def _is_model(name: str) -> bool:
    """Whether a name is a model or a bundle rather than a file of data: a folder, a GGUF file or a Hub id."""
    path = Path(name)
    if path.exists() or (path.parent.is_dir() and path.parent != Path()):
        return path.is_dir() or name.endswith(".gguf")
    return HUB_ID.fullmatch(name.partition(":")[0]) is not None and path.suffix not in DATA_SUFFIXES


def _is_memory(error: BaseException) -> bool:
    """Whether a library in native code says in its own way that it got no memory, perhaps while it was loaded."""
    return isinstance(error, ImportError | RuntimeError | OSError) and any(words in str(error) for words in NO_ROOM)


def _explained(error: BaseException) -> BalconyError | None:
    """An error of this project, or what the machine around it lacks; None for all others, which are bugs."""
    if isinstance(error, BalconyError):
        return error
    if isinstance(error, MemoryError) or _is_memory(error):
        return BalconyError("the memory is full", NO_MEMORY)
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):
        return BalconyError("there is no folder for temporary files that can be written", "name one: TMPDIR=FOLDER")
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return BalconyError(f"{error.strerror or error}{where}", "check the files, their permissions and the disk")
    return None


def main() -> None:
    """The console script. Exit codes: 0 done, 1 an explained error, 2 wrong usage, 130 interrupted."""
    streams.prepare()
    with noted() as interruptions:
        try:
            try:
                add_plugins(app)
                app(args=repeat_options(sys.argv[1:]))
            finally:
                streams.finish()
        except streams.ReaderGoneError:
            sys.exit(0)
        except BaseException as error:
            if isinstance(error, SystemExit) and not error.code:
                raise  # a verb that ends well by Ctrl-C, as watch does
            if interruptions.came or isinstance(error, KeyboardInterrupt):
                sys.exit(130)
            explained = _explained(error)
            if explained is None:
                raise
            print(f"balcony-edge: {explained}", file=sys.stderr)
            sys.exit(1)
