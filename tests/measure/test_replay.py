"""balcony-edge replay and explain: records of a bundle, traces from files, forms and errors."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balcony_controller.simulation.contest import WARM_UP_TOKENS, Contest, contest
from balcony_edge import AdaptiveSession, RecordingError
from balcony_edge.control.decision_log import DecisionLog
from balcony_edge.control.explain import figures, paragraph, read_log
from balcony_edge.decoding.loop import confidence
from balcony_edge.measure import plots
from balcony_edge.measure.parallel_contest import contest_rows
from balcony_edge.measure.prompts import QUESTIONS, STORIES, prompts_for
from balcony_edge.measure.records import DEMO, load, record, save, shipped
from balcony_edge.measure.traces import find_traces, read_trace
from balcony_edge.telemetry import FakeSensors
from helpers.command import cli, fails, here
from helpers.places import DEMO_EXITS


def test_records_say_what_the_exits_would_have_said(tmp_path: Path) -> None:
    frequent = np.array(json.loads((DEMO_EXITS / "exits.json").read_text())["frequent_tokens"])
    with AdaptiveSession(sensors=FakeSensors(), provider="cpu") as session:
        prompt = "Once upon a time"
        made = record(session, [session.codec.encode(text) for text in (prompt, "The dog")], tokens=20)
        ids = session.codec.encode(prompt)
        reply = [token.id for token in session.stream(prompt, 20)]
        whole = ids + reply
        for depth in session.ladder.depths[:-1]:
            rows = session.logits(whole, depth)[len(ids) - 1 : -1]
            track = made.replies[0].tracks[depth]
            count = len(reply)
            assert track.agreed[:count] == (rows.argmax(axis=1) == np.array(reply)).tolist()
            expected = [confidence(row, int(row.argmax())) for row in rows]
            assert track.top[:count] == pytest.approx([item.top for item in expected])
            assert track.margin[:count] == pytest.approx([item.margin for item in expected])
            assert track.drafted is not None
            drafts = frequent[rows[:, frequent].argmax(axis=1)]
            assert track.drafted[:count] == (drafts == np.array(reply)).tolist()
    for name in ("records.json", "records.json.gz"):
        save(made, tmp_path / name, "a test")
        read, about = load(tmp_path / name)
        assert about == "a test"
        assert read.shape == made.shape
        assert dict(read.profiles) == dict(made.profiles)
        assert [one.prompt for one in read.replies] == [one.prompt for one in made.replies]
        for one, other in zip(read.replies, made.replies, strict=True):
            for depth, track in other.tracks.items():
                assert one.tracks[depth].agreed == track.agreed
                assert one.tracks[depth].drafted == track.drafted
                assert read.tables[depth].drafted == made.tables[depth].drafted
                assert one.tracks[depth].top == pytest.approx(track.top, abs=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records.json", "records.json.gz"]


def test_the_shipped_records_are_those_of_the_demo() -> None:
    known, about = load()
    assert "balcony-stories" in about
    assert known.tokens > 10_000
    assert known.shape.depths == (3, 6, 9, 12)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"version": 2}', b'{"version": 1, "about": "x"}', gzip.compress(b"{}", mtime=0)[:9]],
)
def test_broken_records_are_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("r.json", "r.json.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RecordingError, match="cannot read the records") as caught:
            load(tmp_path / name)
        assert "--record" in caught.value.hint


@pytest.mark.parametrize("name", sorted(shipped()))
def test_records_that_ship_can_be_loaded_by_name(name: str) -> None:
    records, about = load(name)
    assert records.tokens > 10_000
    assert about
    assert {DEMO, "smollm2-135m"} <= set(shipped())


def test_questions_go_through_the_template_and_stories_do_not() -> None:
    class Codec:
        chat_template: object = None

        def encode(self, text: str) -> list[int]:
            return [len(text)]

        def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
            (message,) = messages
            return [-len(message["content"])]

    codec = Codec()
    stories = prompts_for(codec)  # type: ignore[arg-type]
    assert [len(text) for text in STORIES] == [ids[0] for ids in stories]
    codec.chat_template = object()
    assert [-len(text) for text in QUESTIONS] == [ids[0] for ids in prompts_for(codec)]  # type: ignore[arg-type]
    assert len(prompts_for(codec, 8)) == 8  # type: ignore[arg-type]


def damaged(change: Any) -> dict[str, Any]:
    path = shipped()[DEMO]
    document: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    change(document)
    return document


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["replies"][0]["tracks"]["3"]["gate"].pop(),
        lambda d: d["replies"][0]["tracks"]["6"].update(drafted="01"),
        lambda d: d["replies"][0]["tracks"].pop("6"),
        lambda d: d.update(replies=[]),
        lambda d: d["profiles"]["head"].update(points=[]),
        lambda d: d["shape"].update(depths="x"),
    ],
)
def test_damaged_records_are_refused(tmp_path: Path, change: Any) -> None:
    (tmp_path / "r.json").write_text(json.dumps(damaged(change)))
    with pytest.raises(RecordingError):
        load(tmp_path / "r.json")


def test_traces_come_by_name_or_from_files(tmp_path: Path) -> None:
    assert len(find_traces([], 900)) >= 8
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"moments": [{"token": 0}, {"token": 90, "slowdown": 2.5, "gpu_load": 0.9}]}))
    steady, mine = find_traces(["steady", str(path)], 900)
    assert steady.name == "steady"
    assert (mine.name, mine.at(89).slowdown, mine.at(90).slowdown) == ("mine", 1.0, 2.5)
    for content in ("{", "[]", '{"moments": []}', '{"moments": [{"token": 5}]}', '{"moments": [{"token": 0, "x": 1}]}'):
        path.write_text(content)
        with pytest.raises(RecordingError, match="cannot read the trace"):
            read_trace(path)
    path.write_text('{"moments": [{"token": 0, "slowdown": "fast"}]}')
    with pytest.raises(RecordingError, match="no number"):
        read_trace(path)
    with pytest.raises(RecordingError, match="no trace 'nowhere'"):
        find_traces(["nowhere"], 900)


def test_the_replay_command(tmp_path: Path) -> None:
    picture = tmp_path / "frontier.svg"
    result = cli("replay", "steady", "--budgets", "2", "--tokens", "200", "--json", "--plot", str(picture))
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    wanted = {"policy", "trace", "budget", "budget_ms", "cost_ms", "agreement", "overspend_tokens", "forced_tokens"}
    assert all(row.keys() == wanted for row in rows)
    assert {row["policy"] for row in rows} >= {"controller", "oracle_same_information", "exit_3", "lossless"}
    assert picture.stat().st_size > 1000
    shown = here("replay", "steady", "--budget", "50ms", "--tokens", "200")
    assert shown.returncode == 0, shown.stderr
    assert "steady" in shown.stdout
    fails(here("replay", "nowhere"), "nowhere", "steady")
    fails(here("replay", "--budget", "8W", "--tokens", "200"), "8W")
    fails(here("replay", "--records", str(tmp_path / "none.json")), "none.json")
    fails(here("replay", "--record", "demo"), "-o")
    fails(here("replay", "--plot", "x.doc"), "x.doc")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    with (
        DecisionLog(path) as opened,
        AdaptiveSession(budget="1ms", sensors=FakeSensors(), provider="cpu", log=opened) as s,
    ):
        list(s.stream("Once upon a time", 40))
    return path


def test_a_log_is_explained(log: Path, tmp_path: Path) -> None:
    head, steps = read_log(log)
    found = figures(head, steps)
    assert found["tokens"] == sum(step["tokens"] for step in steps)
    assert sum(found["depth_shares"].values()) == pytest.approx(1.0)
    timed = steps[1:]
    assert found["mean_ms"] == pytest.approx(
        sum(step["elapsed_ms"] for step in timed) / sum(step["tokens"] for step in timed)
    )
    said = paragraph(found)
    assert f"{found['tokens']} tokens" in said
    assert "budget 1ms" in said
    plots.decisions(head, steps, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_what_a_paragraph_can_say() -> None:
    base: dict[str, Any] = {
        "budget": "8W",
        "budget_ms": None,
        "tokens": 10,
        "mean_ms": None,
        "depth_shares": {"12": 1.0},
        "full": 12,
        "full_ms": None,
        "clocks": {},
        "lossless_share": 1.0,
        "slowdown": [1.0, 3.0],
        "largest_debt_ms": 0.0,
        "pause_ms": 120.0,
        "sets": [[12]],
        "verdicts": {"emit": 2, "deepen": 1},
        "cut_tokens": 4,
        "floor_tokens": 3,
    }
    said = paragraph(base)
    for words in ("lossless decoding throughout", "1.00 to 3.00 times", "120 ms", "4 tokens", "3 tokens", "2 emitted"):
        assert words in said
    assert "afforded lossless decoding" in paragraph({**base, "lossless_share": 0.3, "slowdown": [1.0, 1.0]})
    mixed = {"depth_shares": {"3": 0.75, "12": 0.25}, "lossless_share": 0.0, "full_ms": 4.5, "clocks": {"15W": 9}}
    said = paragraph({**base, **mixed})
    assert "full depth takes 4.5 ms here, more than the budget allows: 75% of the tokens left at exits" in said
    assert "Steps at each clock: 15W 9." in said


def test_a_log_cut_off_in_its_last_line_still_counts(log: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl"
    cut.write_text(log.read_text()[:-30])
    assert len(read_log(cut)[1]) == len(read_log(log)[1]) - 1
    lines = log.read_text().splitlines()
    for content in ("", "{}", "\n".join([lines[0], "{", *lines[1:]]), lines[0], '{"kind": "other"}'):
        cut.write_text(content)
        with pytest.raises(RecordingError):
            read_log(cut)


def test_the_explain_command(log: Path, tmp_path: Path) -> None:
    result = here("explain", str(log), "--json", "--plot", str(tmp_path / "p.pdf"))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["budget"] == "1ms"
    assert (tmp_path / "p.pdf").exists()
    assert "tokens were decided" in here("explain", str(log)).stdout
    fails(here("explain", str(tmp_path / "none")), "none")


def test_traces_spread_over_processes_give_the_same_rows() -> None:
    known, _ = load()
    traces = find_traces(["steady", "step 2x"], 150)
    spread = contest_rows(known, traces, 1, 150)
    assert spread == list(contest(known, traces, 1, 150))


def test_a_sudden_load_is_answered_at_once_also_where_all_tokens_are_deep() -> None:
    """Near full depth's cost the set of depths can be full depth alone, which leaves nothing to save with."""
    tokens = 1200
    bursts = find_traces(["bursts"], tokens)[0]
    found = Contest(load("smollm2-135m")[0], bursts, tokens)
    for budget_ms in found.budgets_ms(6)[-2:]:
        run = found.governor_run(budget_ms)
        assert run.overspend_tokens(budget_ms, WARM_UP_TOKENS) <= found.forced_tokens(budget_ms) + 10.0


def test_exits_that_are_far_behind_are_caught_up_while_savings_last() -> None:
    """In the midst of a long lossless reply a sudden load makes exits necessary, which have read nothing of it yet."""
    tokens = 3000
    found = Contest(load("smollm2-135m")[0], find_traces(["bursts"], tokens)[0], tokens)
    budget_ms = found.budgets_ms(4)[-1]
    run = found.governor_run(budget_ms)
    assert run.overspend_tokens(budget_ms, WARM_UP_TOKENS) <= found.forced_tokens(budget_ms) + 9.0
