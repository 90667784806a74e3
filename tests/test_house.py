"""The house's own rules: few rooms to a folder, short files, a line that says what each room is for.

Which room may import which is checked by import-linter (``make lint``).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.places import ROOT

PACKAGES = [
    ROOT / "balcony_edge",
    ROOT / "controller" / "balcony_controller",
    ROOT / "export" / "balcony_export",
    ROOT / "profiles" / "balcony_profiles",
]
FOLDERS = sorted({file.parent for package in PACKAGES for file in package.rglob("*.py")})
MOST_ROOMS = 16
MOST_LINES = 400


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_has_few_rooms(folder: Path) -> None:
    files = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")]
    rooms = [path.name for path in folder.iterdir() if path.is_dir() and list(path.glob("*.py"))]
    assert len(files) + len(rooms) <= MOST_ROOMS, sorted(files + rooms)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_says_what_it_is_for(folder: Path) -> None:
    assert (folder / "__init__.py").read_text().startswith('"""')


def test_files_are_short() -> None:
    code = [
        path for top in (*PACKAGES, ROOT / "tests", ROOT / "benchmarks", ROOT / "docs") for path in top.rglob("*.py")
    ]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in code}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}
