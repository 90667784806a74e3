"""Attention on Arm: the same bits for one position and for several."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from balcony_edge import Bundle
from balcony_edge.bundle.manifest import Precision
from balcony_edge.control.profile import batching_is_bit_exact
from balcony_edge.engine.attention import VARIABLE
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from helpers.places import MakeBundle


def loaded_with(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> set[str | None]:
    """What the variable is while each graph of a bundle is loaded."""
    seen = []
    load = Runtime.session

    def session(runtime: Runtime, path: Path) -> object:
        seen.append(os.environ.get(VARIABLE))
        return load(runtime, path)

    monkeypatch.setattr(Runtime, "session", session)
    Ladder(bundle, Runtime.start("cpu"))
    assert seen
    return set(seen)


@pytest.mark.parametrize(("machine", "value"), [("aarch64", "1"), ("x86_64", None)])
def test_blocks_are_off_on_arm_alone(monkeypatch: pytest.MonkeyPatch, machine: str, value: str | None) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert loaded_with(monkeypatch, Bundle.demo()) == {value}
    assert VARIABLE not in os.environ


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setenv(VARIABLE, "0")
    assert loaded_with(monkeypatch, Bundle.demo()) == {"0"}
    assert os.environ[VARIABLE] == "0"


def test_a_float_exact_bundle_keeps_its_blocks(monkeypatch: pytest.MonkeyPatch, tiny_bundles: MakeBundle) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.delenv(VARIABLE, raising=False)
    assert loaded_with(monkeypatch, tiny_bundles("fp32", "float")) == {None}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_batches_are_bit_exact(tiny_bundles: MakeBundle, precision: Precision) -> None:
    """On both processors that are tested, with the oldest and the newest ONNX Runtime."""
    if platform.machine() not in ("aarch64", "x86_64"):
        pytest.skip("nobody has looked at this processor yet")
    assert batching_is_bit_exact(Ladder(tiny_bundles(precision, "bit"), Runtime.start("cpu")))
