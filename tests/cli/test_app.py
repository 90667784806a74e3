"""The command line: text on stdout, the rest on stderr, clear errors and exit codes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer

from balcony_controller import Limits
from balcony_edge import AdaptiveSession, Bundle, Token
from balcony_edge.cli.app import repeat_options
from balcony_edge.cli.run import run
from helpers.command import cli, fails, here


def test_run_streams_text_to_stdout_and_figures_to_stderr() -> None:
    result = cli("run", "-p", "Once upon a time", "-n", "12", "--budget", "full")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split()) > 4
    assert "tok/s" not in result.stdout
    memory, figures, why = result.stderr.strip().splitlines()
    assert memory.startswith("memory: about ")
    assert why == "Nothing was limited: every token is the full model's."
    for word in ("prompt 4 tokens", "first token", "ms/token", "budget full", "100% at full depth", "lossless"):
        assert word in figures


def test_run_reads_prompts_from_stdin_and_files(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("The little dog")
    by_file = here("run", "-f", str(tmp_path / "prompt.txt"), "-n", "5")
    by_stdin = here("run", "-p", "-", "-n", "5", stdin="The little dog")
    by_dash = cli("run", "-", "-n", "5", stdin="The little dog")
    assert by_file.returncode == by_stdin.returncode == by_dash.returncode == 0
    assert by_file.stdout == by_stdin.stdout == by_dash.stdout != "\n"


def test_the_budget_comes_from_the_environment_too() -> None:
    result = here("run", "-p", "Once", "-n", "4", BALCONY_BUDGET="500ms")
    assert "budget 500ms" in result.stderr


def test_a_prompt_cache_is_made_once_and_used(tmp_path: Path) -> None:
    cache = tmp_path / "made" / "prompt.safetensors"
    arguments = ["run", "-p", "Once upon a time, there was", "-n", "6", "--prompt-cache", str(cache)]
    first = here(*arguments)
    made = cache.read_bytes()
    second = here(*arguments)
    assert first.returncode == second.returncode == 0, second.stderr
    assert first.stdout == second.stdout
    assert cache.read_bytes() == made
    assert "reused" in second.stderr
    assert "reused" not in first.stderr
    cache.write_bytes(made[:200])
    fails(here(*arguments), "prompt.safetensors", "delete")


def test_bad_input() -> None:
    fails(here("run", "nowhere", "-p", "x"), "nowhere", "balcony-edge export")
    fails(here("run", "-p", "x", "--budget", "25 parsecs"), "parsecs", "40tok/s")
    fails(cli("run"), "no prompt", "-p")
    fails(here("run", "-f", "nowhere.txt"), "nowhere.txt")
    fails(here("run", "-p", "x", "-f", "y"), "both")
    fails(here("run", "-p", "long " * 2000), "context", "shorten")
    fails(here("run", "-p", "x", "--provider", "tpu"), "tpu", "cuda")
    fails(here("run", "-p", "x", "--temp", "-1"), "--temp")


def test_a_damaged_bundle_is_named(tmp_path: Path) -> None:
    shutil.copytree(Bundle.demo().path, tmp_path / "b")
    (tmp_path / "b" / "weights.bin").write_bytes(b"")
    fails(here("run", str(tmp_path / "b"), "-p", "x"), "weights.bin", "truncated")


def test_wrong_usage_is_exit_code_two() -> None:
    assert here("run", "--no-such-option").returncode == 2
    assert here("no-such-verb").returncode == 2


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_and_version(arguments: list[str]) -> None:
    result = here(*arguments)
    assert result.returncode == 0
    assert result.stdout


def test_options_may_take_several_files() -> None:
    given = ["train", "m", "--data", "a", "b", "c", "-o", "d", "--heldout", "e", "f"]
    assert repeat_options(given) == [
        *["train", "m", "--data", "a", "--data", "b", "--data", "c", "-o", "d", "--heldout", "e", "--heldout", "f"]
    ]
    assert repeat_options(["run", "-p", "--data"]) == ["run", "-p", "--data"]


def test_a_model_after_data_is_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "texts").mkdir()
    for name in ("a", "b.txt", "m.gguf"):
        (tmp_path / name).touch()
    for model in ("model", "m.gguf", "owner/name-1.7B", "owner/name:file.gguf"):
        given = ["train", "--data", "a", "b.txt", "texts/typo.txt", model, "-o", "out"]
        data = ["--data", "a", "--data", "b.txt", "--data", "texts/typo.txt"]
        assert repeat_options(given) == ["train", *data, model, "-o", "out"]
    for data in ("hub:owner/name", "self", "nowhere", "owner/file.txt"):
        assert repeat_options(["train", "--data", "a", data]) == ["train", "--data", "a", "--data", data]


def test_a_mistyped_folder_does_not_ask_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments: Any, **settings: Any) -> Any:
        raise AssertionError("asked for a name on the network")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "bundle").mkdir(parents=True)
    fails(here("run", "runs/bundel", "-p", "x"), "there is no runs/bundel", "did you mean runs/bundle?", "--revision")
    fails(here("inspect", "runs/else"), "there is no runs/else", "runs holds bundle")
    (tmp_path / "runs" / "bundle").rmdir()
    fails(here("run", "runs/x", "-p", "x"), "runs is empty")
    pytest.importorskip("torch")
    fails(here("export", "runs/x", "-o", "out"), "runs is empty")


def test_without_a_network_the_hub_is_not_asked_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def no_network(*arguments: Any, **settings: Any) -> Any:
        asked.append(arguments)
        raise socket.gaierror(-2, "Name or service not known")

    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    fails(here("run", "owner/nothing", "-p", "x"), "cannot be reached", "no folder of that name")
    assert len(asked) <= 2


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, balcony_edge\n"
        "balcony_edge.AdaptiveSession, balcony_edge.Budget, balcony_edge.Bundle\n"
        "heavy = {'torch', 'transformers', 'onnx', 'optimum', 'balcony_export', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": paths}, timeout=500)


def test_ctrl_c_ends_the_text_and_still_gives_the_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = AdaptiveSession.stream

    def interrupted(self: AdaptiveSession, *arguments: Any, **settings: Any) -> Iterator[Token]:
        tokens = original(self, *arguments, **settings)
        yield from (next(tokens) for _ in range(3))
        raise KeyboardInterrupt

    monkeypatch.setattr(AdaptiveSession, "stream", interrupted)
    with pytest.raises(typer.Exit) as ended:
        run(prompt="Once upon a time", provider="cpu")
    assert ended.value.exit_code == 130
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    assert "3 tokens" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "-p", "x", "--max-temp", "nan"),
        ("run", "-p", "x", "--max-temp", "inf"),
        ("run", "-p", "x", "--min-battery", "nan"),
        ("run", "-p", "x", "--min-agreement", "nan"),
        ("watch", "--interval", "nan"),
        ("watch", "--interval", "inf"),
    ],
)
def test_limits_that_are_no_numbers_are_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = here(*arguments)
    assert result.returncode == 2
    assert arguments[-2] in result.stderr
    for limits in ({"temperature_c": float(arguments[-1])}, {"battery_level": float(arguments[-1])}):
        with pytest.raises(ValueError, match=r"no number|0 to 1"):
            Limits(**limits)


def test_a_verb_that_cannot_be_loaded_does_not_break_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = metadata.EntryPoint("broken", "balcony_edge.no_such_module:verb", "balcony_edge.commands")
    monkeypatch.setattr(metadata, "entry_points", lambda **_: [entry])
    assert here("run", "-p", "Once", "-n", "2").returncode == 0
    fails(here("broken", "a", "--option", "b"), "the verb broken cannot be loaded", "no_such_module")
