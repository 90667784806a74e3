"""Every reader of files and texts, against thousands of broken and hostile ones; few in ``make test``."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from balcony_edge import Bundle
from balcony_edge.bundle.external_data import check_external_data
from balcony_edge.bundle.manifest import file_entry, read_manifest
from balcony_edge.control.budgets import parse_budget
from balcony_edge.control.explain import figures, paragraph, read_log
from balcony_edge.control.profile import LadderProfile
from balcony_edge.control.signals import read_power_model
from balcony_edge.engine import prompt_cache
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.errors import BalconyError, DeviceProfileError, PromptError
from balcony_edge.files import reading
from balcony_edge.files.reading import UNFITTING
from balcony_edge.files.sealed import sealed
from balcony_edge.files.tensors import read_metadata, save_arrays
from balcony_edge.measure import records
from balcony_edge.measure.traces import read_trace
from balcony_edge.telemetry import Player
from balcony_edge.telemetry.device_profile import read_profile
from balcony_edge.telemetry.injected import InjectedBattery
from balcony_edge.text import given_text
from balcony_edge.text.chat import ChatTemplate
from balcony_edge.text.settings import read_settings, special_tokens
from balcony_profiles import ProfileError, load, to_toml
from helpers import fakes
from helpers.fuzz import LONG, SHORT, fuzz, verb, written
from helpers.mutations import Mutation, mutated, mutated_json
from helpers.protobuf import entry, field

Use = Callable[[Path], object]


@dataclass(frozen=True)
class Kind:
    """A kind of file. ``good``: a good one. ``use``: reads it. ``strict``: garbage is refused, not only survived."""

    name: str
    good: Callable[[Path], bytes]
    use: Use
    mutate: Mutation = mutated_json
    strict: bool = True
    most: int = LONG


# --- good files of every kind -----------------------------------------------------------------------------------------


def a_log(folder: Path) -> bytes:
    head = {"kind": "balcony-edge decisions", "version": 1, "budget": "25ms", "budget_ms": 25.0, "depths": [3, 6, 12]}
    step = {
        "token": 0,
        "tokens": 2,
        "depths": [3, 12],
        "elapsed_ms": 20.5,
        "pause_ms": 0.0,
        "slowdown": 1.1,
        "allowance_ms": 25.0,
        "debt_ms": -3.0,
        "price_per_ms": 0.01,
        "set": [3, 12],
        "lossless": False,
        "cut": False,
        "floor_wins": False,
        "expected": 0.9,
        "gates_draft": False,
        "options": {"emit": 0.4, "hold": None, "verify": 0.2, "deepen": -1.0},
        "signals": {"cpu_load": 0.5},
    }
    steps = [step | {"token": 2 * number} for number in range(20)]
    return "".join(json.dumps(line) + "\n" for line in [{**head, "min_agreement": 0.0}, *steps]).encode()


def a_trace(folder: Path) -> bytes:
    moments = [
        {"token": 0, "slowdown": 1.0, "cpu_load": 0.2, "on_mains": True},
        {"token": 100, "slowdown": 2.0, "gpu_load": 0.9, "gpu_clock_hz": 9e8, "temperature_c": 80.0, "sensors": False},
    ]
    document = {"name": "mine", "moments": moments, "battery_wh": 40.0, "battery_full_wh": 50.0}
    return json.dumps(document, indent=1).encode()


def some_records(folder: Path) -> bytes:
    path = folder / "good.json"
    records.save(fakes.records(replies=2, tokens=20), path, "fakes")
    return path.read_bytes()


def some_packed_records(folder: Path) -> bytes:
    return gzip.compress(some_records(folder), mtime=0)


def a_recording(folder: Path) -> bytes:
    header = {"format": "balcony-trace", "version": 1, "device": {"model": "board"}, "units": {}}
    first = {"gpu_load": {"value": 0.7, "source": "devfreq"}, "power_w": {"value": None, "reason": "none"}}
    looks = [
        {"t": 0.0, "set": first},
        {"t": 0.5, "set": {}},
        {"t": 1.0, "set": {"power_mode": {"value": 2, "text": "15W"}}},
    ]
    return "".join(json.dumps(line) + "\n" for line in [header, *looks]).encode()


def a_battery(folder: Path) -> bytes:
    return b'{"level": 0.8, "power_w": 6.1, "on_mains": false, "energy_wh": 40.5}'


def a_manifest(folder: Path) -> bytes:
    """Of a bundle whose files are all but empty."""
    demo = Bundle.demo()
    content = json.loads((demo.path / "balcony.json").read_text())
    for name in content["files"]:
        path = folder / "bundle" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        content["files"][name] = file_entry(path).model_dump()
    return json.dumps(content, indent=1).encode()


def some_settings(folder: Path) -> bytes:
    return json.dumps(
        {
            "bos_token": "<s>",
            "eos_token": {"content": "</s>", "lstrip": False},
            "model_max_length": 1000000000000000019884624838656,
            "split_special_tokens": False,
            "chat_template": [{"name": "default", "template": "{{ messages }}"}],
        },
        indent=1,
    ).encode()


def a_calibration(folder: Path) -> bytes:
    return LadderProfile(fakes.profiles(), True, 0.02, 1).to_json().encode()


def a_device_profile(folder: Path) -> bytes:
    pytest.importorskip("tomli_w")
    return to_toml(load("orin-nano-8gb")).encode()


def a_prompt_cache(folder: Path) -> bytes:
    ladder = a_ladder()
    ladder.rewind(0)
    ladder.append([3, 1, 4, 1, 5])
    ladder.next_logits(ladder.full)
    prompt_cache.save(ladder, folder / "good.safetensors")
    return (folder / "good.safetensors").read_bytes()


def a_graph(folder: Path) -> bytes:
    attribute = field(1, b"axis") + b"\x18\x01"
    node = field(1, field(1, b"x") + field(2, b"y") + field(4, b"MatMul") + field(5, attribute))
    weights = b"\x08\x80\x01" + entry("location", "weights.bin") + entry("offset", "4096") + entry("length", "512")
    tensors = field(5, weights) + field(5, field(9, bytes(40)))
    return b"\x08\x0a" + field(7, node + tensors + node) + field(8, b"\x10\x15")


# --- and what reads them ----------------------------------------------------------------------------------------------

_ladders: list[Ladder] = []


def a_ladder() -> Ladder:
    if not _ladders:
        _ladders.append(Ladder(Bundle.demo(), Runtime.start("cpu")))
    return _ladders[0]


def explain(path: Path) -> None:
    paragraph(figures(*read_log(path)))
    if path.stat().st_size % 20 == 0:
        verb("explain", path)
        json.loads(verb("explain", path, "--json"))


def play(path: Path) -> None:
    """Look at a recording along its time."""
    clock = [0.0]
    player = Player(path, clock=lambda: clock[0])
    for share in (0.0, 0.3, 0.9, 1.0, 1.5):
        clock[0] = share * player.duration_s
        player.snapshot.describe()


def inspect(path: Path) -> None:
    bundle = path.parent / "bundle"
    shutil.copy(path, bundle / "balcony.json")
    read_manifest(bundle)
    if path.stat().st_size % 20 == 0:
        verb("inspect", bundle)


class _Settings:
    """As much of a bundle as settings are read from."""

    def __init__(self, path: Path) -> None:
        self.path = path.parent
        self._file = path
        self.manifest = self
        self.files = ("tokenizer_config.json",)

    def file(self, name: str) -> Path:
        return self._file


def settings(path: Path) -> None:
    bundle: Any = _Settings(path)
    special_tokens(read_settings(bundle))
    ChatTemplate.of(bundle)


def calibration(path: Path) -> None:
    """Whatever stands in the cache, it is measured anew at the worst. Half of the time its digest is right."""
    content = path.read_bytes().decode("utf-8", "replace")
    for text in (content, sealed(content.split("\n")[0])):
        try:
            found = LadderProfile.from_json(text)
        except UNFITTING:
            continue
        assert all(np.isfinite(one.ms(64, 1000)) for one in found.profiles.values())


def saved_prompt(path: Path) -> None:
    """As it is, and with a seal that fits, where it is still a file of tensors."""
    with suppress(OSError, SafetensorError, PromptError, *UNFITTING):
        save_arrays(metadata=read_metadata(path), tensors=load_file(path), path=path.with_name("sealed"))
        prompt_cache.load(a_ladder(), path.with_name("sealed"))
    prompt_cache.load(a_ladder(), path)


def device_profile(path: Path) -> None:
    try:
        read_profile(path)
    except ProfileError as error:
        raise DeviceProfileError(str(error), "as find_profile says") from error


def graph(path: Path) -> None:
    check_external_data(path, "head.onnx", {"weights.bin": (Bundle.demo().path / "weights.bin").stat().st_size})


KINDS = [
    Kind("decision log", a_log, explain),
    Kind("load trace", a_trace, read_trace),
    Kind("records", some_records, records.load),
    Kind("recording", a_recording, play),
    Kind("battery", a_battery, lambda path: InjectedBattery(path).read(), strict=False),
    Kind("manifest", a_manifest, inspect),
    Kind("settings", some_settings, settings),
    Kind("calibration", a_calibration, calibration, strict=False),
    Kind("device profile", a_device_profile, device_profile, mutated),
    Kind("prompt cache", a_prompt_cache, saved_prompt, mutated),
    Kind("graph", a_graph, graph, mutated, strict=False),
    Kind("prompt", lambda folder: "Grüße, 你好\r\n".encode(), given_text.read_file, mutated, strict=False),
]
NAMES = [kind.name for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_broken_files(kind: Kind, tmp_path: Path) -> None:
    good = kind.good(tmp_path)
    use = written(tmp_path / "file", kind.use)
    use(good)
    fuzz(good, kind.mutate, use, SHORT)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_many_broken_files(kind: Kind, tmp_path: Path) -> None:
    fuzz(kind.good(tmp_path), kind.mutate, written(tmp_path / "file", kind.use), kind.most, seed=23)


GARBAGE = [
    b"",
    b"\x00" * 100,
    b"garbage",
    b"null",
    b"[]",
    b"{}",
    b"[" * 100_000,
    b"\xff\xfe\x00",
    b"1" * 5000,
    b"NaN\n",
]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.strict], ids=lambda kind: kind.name)
def test_garbage_is_refused(kind: Kind, tmp_path: Path) -> None:
    good = kind.good(tmp_path)
    use = written(tmp_path / "file", kind.use)
    rng = np.random.default_rng(22)
    # Logs and recordings are good up to where they were cut off.
    cut = [] if kind.name in ("decision log", "recording") else [good[: len(good) // 3]]
    for content in [*GARBAGE, *(rng.bytes(300) for _ in range(5)), *cut]:
        if not (kind.name == "settings" and content == b"{}"):
            with pytest.raises(BalconyError):
                use(content)


# --- what is no plain file --------------------------------------------------------------------------------------------


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 42)


PLACES: dict[str, Callable[[Path], object]] = {
    "a pipe without a writer": os.mkfifo,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "a link in a circle": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "four terabytes": huge,
    "nothing": lambda path: None,
}
BY_PATH = [kind for kind in KINDS if kind.name not in ("manifest", "calibration", "battery")]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", BY_PATH, ids=lambda kind: kind.name)
def test_what_is_no_plain_file(kind: Kind, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PIPE_LIMIT_S", 0.1)
    path = tmp_path / "file"
    PLACES[place](path)
    with pytest.raises(BalconyError) as caught:
        kind.use(path)
    assert caught.value.hint


@pytest.mark.parametrize("place", PLACES)
def test_a_manifest_that_is_no_plain_file(place: str, tmp_path: Path) -> None:
    PLACES[place](tmp_path / "balcony.json")
    with pytest.raises(BalconyError):
        read_manifest(tmp_path)


def test_a_pipe_with_a_writer_is_read(tmp_path: Path) -> None:
    """As a shell makes it for <(zcat log.gz)."""
    log = tmp_path / "log"
    log.write_bytes(a_log(tmp_path))
    read, write = os.pipe()
    os.write(write, log.read_bytes())
    os.close(write)
    try:
        assert verb("explain", f"/dev/fd/{read}") == verb("explain", log)
    finally:
        os.close(read)


# --- texts ------------------------------------------------------------------------------------------------------------

BUDGETS = [b"25ms,8W,battery=20%@3h", b"40tok/s", b"2s@reply,0.4J", b"25ms@p95,gpu=60%", b"full"]


def budget(content: bytes) -> None:
    str(parse_budget(content.decode("utf-8", "surrogateescape")))


def power_model(content: bytes) -> None:
    read_power_model(content.decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize("good", BUDGETS)
def test_broken_budgets(good: bytes) -> None:
    fuzz(good, mutated, budget, SHORT)


@pytest.mark.long
def test_many_broken_budgets() -> None:
    for good in BUDGETS:
        fuzz(good, mutated, budget, LONG // len(BUDGETS), seed=23)


def test_broken_power_models() -> None:
    fuzz(b"4:14", mutated, power_model, SHORT)


@pytest.mark.long
def test_many_broken_power_models() -> None:
    fuzz(b"4:14.5", mutated, power_model, LONG, seed=23)
