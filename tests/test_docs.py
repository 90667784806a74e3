"""The README's first two commands exist, documents point at files that do, and the map names what is there."""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from pathlib import Path
from types import ModuleType

import pytest

import balcony_edge
import balcony_edge.telemetry
from helpers.places import ROOT

DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
MAP = ROOT / "docs" / "architecture.md"
HOMES = {
    "balcony_edge": ROOT,
    "balcony_controller": ROOT / "controller",
    "balcony_export": ROOT / "export",
    "balcony_profiles": ROOT / "profiles",
}
PACKAGES = sorted(
    ".".join(init.parent.relative_to(home).parts)
    for name, home in HOMES.items()
    for init in (home / name).rglob("__init__.py")
)


def _site_hooks() -> ModuleType:
    """docs/site_hooks.py, which knows what pages link to and where code is defined."""
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = _site_hooks()


def test_the_readmes_first_commands_are_make_targets() -> None:
    block = re.search(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    commands = [line.split("#")[0].strip() for line in block[1].strip().splitlines()]
    assert commands == ["make demo", "make test"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", document.read_text())
    for target, anchor in links:
        if re.match(r"[a-z]+:", target):
            continue
        path = document.parent / target if target else document
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            assert anchor in _anchors(path), f"{target}#{anchor}"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_map_names_every_package(package: str) -> None:
    assert re.search(rf"^(\| |\*\*)`{re.escape(package)}`", MAP.read_text(), re.MULTILINE), package


def test_the_map_names_no_package_that_is_not_there() -> None:
    named = re.findall(r"^\| `(balcony_[a-z_.]+)` \|", MAP.read_text(), re.MULTILINE)
    assert set(named) <= set(PACKAGES)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_of_code_define_what_links_say_of_them(document: Path) -> None:
    page = str(document.relative_to(ROOT))
    for text, path in HOOKS.links(document.read_text(), page):
        if path.endswith(".py") and re.fullmatch(r"`[A-Za-z_.]+`", text) and not text.endswith(".py`"):
            assert text.strip("`") in HOOKS.definitions((ROOT / path).read_text()), f"{text} in {path}"


def test_the_site_has_every_page() -> None:
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in nav, page.name


def test_the_api_page_has_every_public_name() -> None:
    shown = set(re.findall(r"^::: balcony_edge\.(\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE))
    public = {*balcony_edge.__all__, *(f"telemetry.{name}" for name in balcony_edge.telemetry.__all__)}
    assert shown == public


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the site makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode() for title in titles)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in plain}


def test_every_public_name_can_be_had() -> None:
    assert all(getattr(balcony_edge, name) is not None for name in balcony_edge.__all__)
