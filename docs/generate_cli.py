"""Write docs/cli.md from the verbs' own --help; with --check only say whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from typer.testing import CliRunner

from balcony_edge.cli.app import add_plugins, app

PAGE = Path(__file__).with_name("cli.md")
HEADER = "# The command line\n\nGenerated from `--help` by `make docs`; do not edit.\n"


def render() -> str:
    """The whole page."""
    add_plugins(app)
    verbs = sorted(command.name or command.callback.__name__ for command in app.registered_commands if command.callback)
    parts = [HEADER]
    for arguments in [[], *([verb] for verb in verbs)]:
        result = CliRunner().invoke(app, [*arguments, "--help"], terminal_width=100, prog_name="balcony-edge")
        title = " ".join(["balcony-edge", *arguments])
        parts.append(f"\n## `{title}`\n\n```text\n{result.output.strip()}\n```\n")
    return "".join(parts)


def main() -> None:
    """Exit code 1 with --check if the page is stale."""
    page = render()
    if "--check" not in sys.argv:
        PAGE.write_text(page)
    elif not PAGE.exists() or PAGE.read_text() != page:
        sys.exit("docs/cli.md is stale: run make docs")


if __name__ == "__main__":
    main()
