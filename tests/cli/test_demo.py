"""``demo`` and ``models``: two answers and what they cost, on the embedded model."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from balcony_edge import AdaptiveSession
from balcony_edge.bundle import catalogue, package_index
from balcony_edge.errors import PromptError
from balcony_edge.measure.two_answers import answer_twice
from balcony_edge.measure.two_columns import OneByOne, SideBySide, pages
from helpers.command import fails, here


@pytest.fixture(autouse=True)
def no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and a package index that cannot be reached."""
    monkeypatch.setenv("BALCONY_CACHE_DIR", str(tmp_path))

    def download(requirement: str, *_: object) -> Path:
        raise package_index.UnreachableError(f"{requirement} cannot be downloaded", "check the network")

    monkeypatch.setattr(package_index, "download", download)


@pytest.mark.parametrize("how", [[], ["--offline"]])
def test_without_the_download_the_stories_answer_and_it_says_why(how: list[str]) -> None:
    shown = here("demo", "-n", "8", *how)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"embedded stories answer, since smollm2-135m cannot be had: \S+", shown.stdout)
    assert "→" in shown.stdout
    for words in ("at full depth:", "under a budget of", "where they left", "100% at full depth"):
        assert words in shown.stdout
    budget = re.search(r"--budget (\S+ms) -p 'Once upon a time'$", shown.stdout, re.MULTILINE)
    assert budget
    assert f"under a budget of {budget[1]} a token" in shown.stdout


def test_the_command_to_go_on_with_works() -> None:
    shown = here("demo", catalogue.STORIES, "-n", "8", "-p", "The cat's hat")
    command = re.search(r"go on with:  balcony-edge (.*)", shown.stdout)
    assert command
    assert "embedded stories answer" not in shown.stdout
    assert here(*shlex.split(command[1]), "-n", "4").returncode == 0


def test_a_model_that_was_asked_for_is_not_replaced() -> None:
    fails(here("demo", "nosuch/folder/"), "nosuch/folder")


def test_models_lists_name_licence_source_and_digest() -> None:
    shown = here("models").stdout
    for name, model in catalogue.models().items():
        assert f"{name}: {model.title}" in shown
        assert model.licence in shown
        assert model.sha256 in shown
    assert "not here yet" in shown
    assert "stories: " in shown


def test_both_answers_begin_from_the_prompt_and_the_second_has_the_budget() -> None:
    texts, begun = ["", ""], []

    def show(number: int, piece: str) -> None:
        texts[number] += piece

    with AdaptiveSession(speculate=False) as session:
        found = answer_twice(session, "Once upon a time", 12, 0.5, show, begun.append)
    assert begun == [0, 1]
    assert found.full.lossless
    assert found.full.mean_ms
    assert found.budgeted.budget_ms == pytest.approx(found.full.mean_ms * 0.5, rel=0.01)
    assert found.full.reused_tokens == found.budgeted.reused_tokens == 0
    # Every token of an exit was compared with the full model's.
    full = found.budgeted.depth_counts.get(found.budgeted.full_depth, 0)
    assert full + found.budgeted.verified == found.budgeted.tokens == 12
    assert texts[0].count(" ") > 6
    lines = found.table().splitlines()
    assert len(lines) == 3
    assert "100%" in lines[1]


def test_an_answer_too_short_to_measure_is_refused() -> None:
    with AdaptiveSession() as session, pytest.raises(PromptError, match="too short"):
        answer_twice(session, "Once upon a time", 1, 0.5, lambda *_: None, lambda _: None)


def test_a_wide_terminal_gets_columns_and_all_else_plain_text() -> None:
    wide, narrow = (Console(file=io.StringIO(), force_terminal=True, width=width) for width in (100, 60))
    assert isinstance(pages(wide), SideBySide)
    assert isinstance(pages(narrow), OneByOne)
    assert isinstance(pages(Console(file=io.StringIO())), OneByOne)


def test_columns_end_with_both_whole_texts() -> None:
    file = io.StringIO()
    with SideBySide(Console(file=file, force_terminal=True, width=100, color_system=None)) as shown:
        for number, word in enumerate(("deep", "quick")):
            shown.title(number, f"the {word} one")
            for _ in range(30):
                shown.add(number, f"{word} ")
    last = file.getvalue().rpartition("the deep one")[2]
    assert last.count("deep") == 30
    assert last.count("quick") == 30 + 1  # and its title


def test_plain_text_has_titles_and_ends_with_a_line() -> None:
    file = io.StringIO()
    with OneByOne(Console(file=file)) as shown:
        for number, word in enumerate(("deep", "quick")):
            shown.title(number, f"the {word} one")
            shown.add(number, word)
    assert file.getvalue() == "the deep one:\ndeep\n\nthe quick one:\nquick\n"
