"""Strangers' strings reach no terminal as they are: in tables, in errors, in a live view, in a reply."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from balcony_edge import Bundle, BundleError
from balcony_edge.system.terminal import cell, clean, shown, table
from helpers.command import here

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eabc\r\n  → rm -rf ~\u2028\x7f"
MARKUP = "[bold red]x[/] [/nonsense]"


def harmless(text: str) -> bool:
    return not any(character in text for character in "\x1b\x07\x9b\x7f\r\u202e\u2028")


def test_control_characters_become_escapes() -> None:
    assert clean("a\x1b[2Jb\tc\nd é 你 🙂") == "a\\x1b[2Jb\tc\nd é 你 🙂"
    assert clean("\ud800\u202e\x9b") == "\\ud800\\u202e\\x9b"
    assert cell("a\nb\tc") == "a\\nb\\tc"
    assert harmless(clean(EVIL))
    clean(EVIL).encode()


def test_tables_and_errors_are_cleaned() -> None:
    assert harmless(table([[EVIL, "x"], ["y", EVIL]]))
    assert len(table([[EVIL], ["y"]]).splitlines()) == 2
    error = BundleError(f"cannot read {EVIL}", EVIL)
    assert all(harmless(text) for text in (str(error), error.message, error.hint))


def test_a_models_text_is_cleaned_for_a_terminal_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert harmless(shown(EVIL, Terminal()))
    assert shown(EVIL, io.StringIO()) == EVIL


def evil_manifest(folder: Path, **changes: Any) -> Path:
    bundle = Path(shutil.copytree(Bundle.demo().path, folder / "bundle"))
    manifest = json.loads((bundle / "balcony.json").read_text())
    manifest["base"]["model"] = EVIL
    (bundle / "balcony.json").write_text(json.dumps(manifest | changes))
    return bundle


@pytest.mark.parametrize("changes", [{}, {EVIL: 1}, {"splits": EVIL}, {"exactness": EVIL}, {"schema_version": EVIL}])
def test_a_manifest_says_nothing_to_the_terminal(changes: dict[str, Any], tmp_path: Path) -> None:
    result = here("inspect", str(evil_manifest(tmp_path, **changes)))
    assert result.returncode == (0 if not changes else 1)
    assert harmless(result.stdout + result.stderr)


def recording(path: Path, text: str) -> Path:
    header = {"format": "balcony-trace", "version": 1, "device": {"model": text}}
    readings = {
        "power_mode": {"value": 1, "source": text, "text": text},
        "gpu_load": {"value": None, "reason": text},
    }
    path.write_text(f"{json.dumps(header)}\n{json.dumps({'t': 0.0, 'set': readings})}\n")
    return path


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_recording_says_nothing_to_the_terminal(options: list[str], tmp_path: Path) -> None:
    result = here("watch", "--play", str(recording(tmp_path / "r", EVIL)), "-n", "1", "--interval", "0.05", *options)
    assert result.returncode == 0, result.stderr
    assert harmless(result.stdout)


@pytest.mark.parametrize("text", [EVIL, MARKUP])
def test_the_live_view_shows_strings_as_they_are(text: str, tmp_path: Path) -> None:
    from rich.console import Console

    from balcony_edge.cli.watch import _LiveTable
    from balcony_edge.telemetry import Player

    player = Player(recording(tmp_path / "r", text))
    out = io.StringIO()
    Console(file=out, width=300).print(_LiveTable().draw(player.snapshot))
    assert harmless(out.getvalue())
    assert MARKUP not in text or MARKUP in out.getvalue()


def test_a_trace_and_a_log_say_nothing_to_the_terminal(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps({"name": EVIL, "moments": [{"token": 0}]}))
    result = here("replay", str(trace), "--tokens", "200", "--budgets", "1")
    assert result.returncode == 0, result.stderr
    assert harmless(result.stdout)
    log = tmp_path / "log"
    assert here("run", "-p", "Once", "-n", "4", "--log", str(log)).returncode == 0
    head, *steps = log.read_text().splitlines()
    log.write_text("\n".join([json.dumps(json.loads(head) | {"budget": EVIL}), *steps, ""]))
    result = here("explain", str(log))
    assert result.returncode == 0, result.stderr
    assert harmless(result.stdout)
