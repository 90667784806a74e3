"""The pages say what the commands do."""

from __future__ import annotations

from pathlib import Path

import pytest

from balcony_edge.doctor.diagnosis import diagnose
from balcony_edge.doctor.text import lines
from balcony_edge.telemetry.presentation import SIGNALS
from balcony_profiles import DeviceProfile, names
from helpers.boards import BOARDS, Tree
from helpers.places import ROOT
from helpers.still import still

if not (ROOT / "docs").is_dir():
    pytest.skip("the pages are not here", allow_module_level=True)


def stable(text: list[str]) -> list[str]:
    """Without what differs from run to run and from release to release."""
    return [line for line in text if not line.strip().startswith(("energy.total", "balcony-edge "))]


def test_the_sample_of_a_jetson_is_what_doctor_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still(monkeypatch, "balcony_edge.doctor.diagnosis")
    page = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")
    (sample,) = [part for part in page.split("```") if "Orin NX" in part and part.startswith("text\n")]
    said = [line for line, _ in lines(diagnose(Tree(tmp_path).write(BOARDS["orin-nx"]).root))]
    assert stable(sample.strip().splitlines()[1:]) == stable(said)


def test_every_signal_profile_and_key_is_on_its_page() -> None:
    telemetry = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")
    assert not [signal.name for signal in SIGNALS.values() if f"`{signal.name}`" not in telemetry]
    profiles = (ROOT / "docs" / "profiles.md").read_text(encoding="utf-8")
    assert not [name for name in names() if f"`{name}`" not in profiles]
    keys = set(DeviceProfile.model_fields) - {"name"}
    assert not [key for key in keys if f"`{key}`" not in profiles and f"`[{key}]`" not in profiles]
