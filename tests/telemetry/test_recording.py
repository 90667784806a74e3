"""Recordings: what goes in comes out at its time, and no file can do worse than be refused by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_edge import AdaptiveSession, RecordingError
from balcony_edge.telemetry import FakeSensors, Player, Poller, Recorder, Snapshot
from balcony_edge.telemetry.reading import UNITS

if TYPE_CHECKING:
    from conftest import FakeClock

HEADER = '{"format": "balcony-trace", "version": 1}\n'


def record(path: Path, steps: list[tuple[float, dict[str, float | None]]]) -> Path:
    sensors = FakeSensors()
    with Recorder(path, {"model": "a board"}) as recorder:
        for at_s, values in steps:
            recorder.note(sensors.set(**values), at_s)
    return path


def bare(snapshot: Snapshot) -> list[tuple[str, float | None, str, str]]:
    return [(name, reading.value, reading.source, reading.reason) for name, reading in snapshot]


def test_a_recording_plays_at_its_own_pace(tmp_path: Path, clock: FakeClock) -> None:
    path = record(tmp_path / "t.jsonl", [(10.0, {"gpu_load": 0.2}), (10.5, {"gpu_load": 0.9}), (12.0, {"power_w": 8})])
    player = Player(path, clock=clock)
    assert (player.device, player.duration_s) == ({"model": "a board"}, 2.0)
    seen = []
    with player:
        for _ in range(9):
            snapshot = player.snapshot
            assert player.snapshot is snapshot
            seen.append((snapshot.gpu_load.value, snapshot.power_w.value))
            assert all(reading.time_s <= clock() for _, reading in snapshot if reading.known)
            clock.advance(0.5)
    assert (
        seen
        == [(0.2, None), (0.9, None), (0.9, None), (0.9, None), (0.9, 8.0), (0.9, 8.0), (0.9, 8.0)] + [(None, None)] * 2
    )
    assert player.snapshot.gpu_load.reason == "the recording is over"


def test_playing_faster_and_again(tmp_path: Path, clock: FakeClock) -> None:
    path = record(tmp_path / "t.jsonl", [(0.0, {"gpu_load": 0.2}), (1.0, {"gpu_load": 0.9})])
    player = Player(path, speed=10.0, loop=True, clock=clock).start()
    seen = []
    for _ in range(6):
        seen.append(player.snapshot.gpu_load.value)
        clock.advance(0.1)
    assert seen == [0.2, 0.9, 0.2, 0.9, 0.2, 0.9]
    player.stop()
    clock.advance(0.07)
    assert player.start().snapshot.gpu_load.value == 0.2
    with pytest.raises(ValueError, match="positive"):
        Player(path, speed=0.0)


def test_only_changes_are_written(tmp_path: Path) -> None:
    path = record(tmp_path / "t.jsonl", [(0.0, {"gpu_load": 0.2}), (1.0, {}), (2.0, {"power_w": 3.0})])
    header, first, second, third = (json.loads(line) for line in path.read_text().splitlines())
    assert (header["units"], header["format"]) == (UNITS, "balcony-trace")
    assert set(first["set"]) == set(UNITS)
    assert second == {"t": 1.0, "set": {}}
    assert third["set"] == {"power_w": {"value": 3.0, "source": "fake"}}


def test_a_recording_of_a_board_plays_as_the_board(tmp_path: Path, board: Any, clock: FakeClock) -> None:
    poller = Poller(root=board("orin-nx").root, nvml=False, clock=clock)
    with Recorder(tmp_path / "orin.jsonl") as recorder:
        for step in range(3):
            recorder.note(poller.poll_once(), step * 0.5)
            clock.advance(0.5)
    played = Player(tmp_path / "orin.jsonl").snapshot
    assert played.power_w.value == pytest.approx(29.4)
    assert (played.throttled.text, played.power_mode.text) == ("gpu", "MAXN_SUPER")
    assert played.on_mains.value is None


def test_a_session_hears_a_recording(tmp_path: Path, clock: FakeClock) -> None:
    path = record(tmp_path / "t.jsonl", [(0.0, {"cpu_load": 0.25, "power_w": 7.5}), (1.0, {})])
    player = Player(path, clock=clock)
    with AdaptiveSession(sensors=player, provider="cpu") as session:
        session.generate("Once", 3)
        assert "cpu 25 %" in session.report().machine
        assert "7.5 W" in session.report().machine
    assert not player.running


def test_a_recording_that_was_cut_off_is_good_up_to_there(tmp_path: Path) -> None:
    path = record(tmp_path / "t.jsonl", [(0.0, {"gpu_load": 0.2}), (1.0, {"gpu_load": 0.9})])
    text = path.read_text()
    path.write_text(text[:-20])
    assert Player(path).duration_s == 0.0
    assert Player(path).snapshot.gpu_load.value == 0.2


def test_signals_of_another_version_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(HEADER + '{"t": 0, "set": {"npu_load": {"value": 1}, "gpu_load": {"value": 0.5}}}\n')
    snapshot = Player(path).snapshot
    assert snapshot.gpu_load.value == 0.5
    assert snapshot.power_w.reason == "not recorded"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "first line"),
        ("{}\n", "first line"),
        ('{"format": "balcony-trace", "version": 2}\n', "version 1"),
        (HEADER, "no look"),
        (HEADER + "nonsense\n", "line 2"),
        (HEADER + "[1]\n", "line 2"),
        (HEADER + '{"t": 0, "set": {}}\n{"t": -1, "set": {}}\n', "line 3"),
        (HEADER + '{"t": "0", "set": {}}\n', "line 2"),
        (HEADER + '{"t": 0}\n', "line 2"),
        (HEADER + '{"t": 0, "set": {"gpu_load": 0.5}}\n', "line 2"),
        (HEADER + '{"t": 0, "set": {"gpu_load": {"value": "0.5"}}}\n', "line 2"),
        (HEADER + '{"t": 0, "set": {"gpu_load": {"value": NaN}}}\n', "line 2"),
        (HEADER + '{"t": 0, "set": {"gpu_load": {}}}\n', "line 2"),
        (HEADER + '{"t": 0, "set": {"gpu_load": {"value": true}}}\n', "line 2"),
        (HEADER + "[" * 100_000 + "\n", "line 2"),
    ],
)
def test_what_is_no_recording_is_refused_by_its_line(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(RecordingError, match=word) as caught:
        Player(path)
    assert caught.value.hint


@given(st.binary(max_size=200))
def test_any_file_is_a_recording_or_a_trace_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("trace") / "t.jsonl"
    path.write_bytes(HEADER.encode() + content)
    try:
        player: Player | None = Player(path)
    except RecordingError:
        player = None
    assert player is None or player.snapshot is player.snapshot


def test_a_recording_is_never_overwritten_and_needs_a_place(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("precious")
    with pytest.raises(RecordingError, match="exists already"):
        Recorder(tmp_path / "t.jsonl")
    assert (tmp_path / "t.jsonl").read_text() == "precious"
    with pytest.raises(RecordingError, match="cannot write"):
        Recorder(tmp_path / "nowhere" / "t.jsonl")
    with pytest.raises(RecordingError, match="cannot read"):
        Player(tmp_path / "nowhere" / "t.jsonl")


def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "t.jsonl")
    recorder.close()
    recorder._file = Path("/dev/full").open("w")  # noqa: SIM115
    with pytest.raises(RecordingError, match="No space left"):
        recorder.note(Snapshot.unknown(), 0.0)
    recorder.close()


def test_a_player_has_the_pollers_interface() -> None:
    public = {name for name in vars(Poller) if not name.startswith("_")} - {"poll_once"} | {"__enter__", "__exit__"}
    assert all(hasattr(Player, name) for name in public)


def test_a_real_gpus_recording_is_consistent_in_itself(clock: FakeClock) -> None:
    """An H200 idle, decoding from the tenth to the twenty-fifth second, idle again (watch --record, 5 and 2 Hz)."""
    player = Player(Path(__file__).parent / "recordings" / "h200-decoding.jsonl", clock=clock)
    powers, energies, loads = [], [], []
    with player:
        for _ in range(int(player.duration_s * 4)):
            snapshot = player.snapshot
            powers.append(snapshot.power_w.value)
            energies.append((snapshot.energy_j.time_s, snapshot.energy_j.value))
            loads.append(snapshot.gpu_load.value)
            clock.advance(0.25)
    assert {reading.source for name, reading in snapshot if name in ("gpu_load", "power_w", "energy_j")} == {"nvml"}
    (begun_s, first_j), (ended_s, last_j) = energies[1], energies[-1]
    assert (last_j - first_j) / (ended_s - begun_s) == pytest.approx(sum(powers) / len(powers), rel=0.02)
    assert max(loads[:36]) < 0.01 < 0.2 < min(loads[50:90])
    assert loads[-1] < 0.01
    assert snapshot.temperature_limit_c.text == "slowdown"
    assert snapshot.battery_level.reason == "no battery"
