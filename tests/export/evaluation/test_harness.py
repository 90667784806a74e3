"""The LM-Evaluation-Harness over a bundle: its scores against plain numpy, budgets, replies, local tasks, offline."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from balcony_edge import AdaptiveSession, BalconyError, Bundle, DataError
from balcony_edge.bundle.manifest import MANIFEST_NAME, file_entry
from balcony_edge.cli import app
from balcony_edge.control.profile import LadderProfile
from balcony_edge.telemetry import FakeSensors
from helpers import tokenizer_zoo
from helpers.fakes import profile
from helpers.places import ROOT
from helpers.trained_tokenizers import framed

# The harness, its data sets and metrics: the extra "eval".
pytest.importorskip("lm_eval")
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from balcony_export.bundling.writer import export_bundle
from balcony_export.cli.lm_eval import register
from balcony_export.evaluation.harness import BalconyLM

TASKS = ROOT / "benchmarks" / "tasks"
DATA = Path(os.environ.get("BALCONY_SHARED", ROOT.parent / "shared")) / "data" / "eval"
QUESTION, ANSWERS = "Once upon a time there was a little", [" dog who liked to run.", " girl named Lily."]


def lm(**settings: Any) -> BalconyLM:
    return BalconyLM(provider="cpu", sensors=FakeSensors(), **settings)


@pytest.fixture(scope="module")
def full() -> Any:
    model = lm()
    yield model
    model.session.close()


@pytest.fixture(scope="module")
def shallow() -> Any:
    model = lm(depth=3)
    yield model
    model.session.close()


def requests(kind: Any, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, given, index) for index, given in enumerate(arguments)]


def truth(session: AdaptiveSession, context: list[int], continuation: list[int], depth: int) -> tuple[float, bool]:
    """Log-likelihood and greedy match in plain numpy over the logits of one whole pass."""
    logits = session.logits([*context, *continuation], depth).astype(np.float64)[len(context) - 1 : -1]
    rows = np.arange(len(continuation))
    log_p = logits[rows, continuation] - np.log(np.exp(logits).sum(1))
    return float(log_p.sum()), bool((logits.argmax(1) == continuation).all())


@pytest.mark.parametrize("name", ["full", "shallow"])
def test_scores_are_those_of_the_logits(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    context = model.tok_encode(QUESTION)
    scores = model.loglikelihood(requests("loglikelihood", *((QUESTION, answer) for answer in ANSWERS)))
    for (score, greedy), answer in zip(scores, ANSWERS, strict=True):
        continuation = model.tok_encode(QUESTION + answer)[len(context) :]
        expected = truth(model.session, context, continuation, model.depth)
        assert score == pytest.approx(expected[0], abs=1e-4)
        assert greedy == expected[1]
    likeliest = model.session.logits(context, model.depth)[-1].argmax()
    ((_, greedy),) = model._loglikelihood_tokens([(None, context, [int(likeliest)])])
    assert greedy


def test_depths_differ_and_an_empty_context_is_the_start_token(full: BalconyLM, shallow: BalconyLM) -> None:
    one = requests("loglikelihood", ("", "Once upon a time"))
    ((deep, _),), ((near, _),) = full.loglikelihood(one), shallow.loglikelihood(one)
    assert deep != near
    ids = full.tok_encode("Once upon a time", add_special_tokens=False)
    assert deep == pytest.approx(truth(full.session, [full.prefix_token_id], ids, full.depth or 0)[0], abs=1e-4)


def test_a_budget_that_allows_all_scores_like_full_depth_and_one_that_allows_nothing_like_the_first_exit(
    full: BalconyLM, shallow: BalconyLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Measured on a busy machine, a deeper exit may seem the cheapest.
    names = full.session.ladder_profile.profiles
    fixed_costs = LadderProfile({name: profile(0.1, 0.01) for name in names}, bit_exact=False)
    monkeypatch.setattr("balcony_edge.control.loaded.load_or_measure", lambda *_: fixed_costs)
    asked = requests("loglikelihood", *((QUESTION, answer) for answer in ANSWERS))
    for budget, fixed in (("100000ms", full), ("0.000001ms", shallow)):
        model = lm(budget=budget)
        found = model.loglikelihood(asked)
        assert set(model.depth_counts) == {fixed.depth}
        for (score, greedy), (expected, same) in zip(found, fixed.loglikelihood(asked), strict=True):
            assert score == pytest.approx(expected, abs=1e-3)
            assert greedy == same
        model.session.close()


def test_a_long_text_is_scored_in_windows(full: BalconyLM) -> None:
    text = "The dog ran to the park. He saw a big red ball. " * 25
    ids = full.tok_encode(text, add_special_tokens=False)
    context = full.max_length
    assert context < len(ids) < 2 * context
    (total,) = full.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    head = truth(full.session, [full.prefix_token_id], ids[: context - 1], full.depth or 0)[0]
    rest = ids[context:]
    before = ids[len(ids) - context - 1 : -1]
    logits = full.session.logits(before, full.depth or 0).astype(np.float64)[-len(rest) :]
    tail = (logits[np.arange(len(rest)), rest] - np.log(np.exp(logits).sum(1))).sum()
    # The first window predicts one token more than a pass with continuation can hold: the last of its context.
    first = full.session.logits([full.prefix_token_id, *ids[: context - 1]], full.depth or 0).astype(np.float64)[-1]
    last = first[ids[context - 1]] - np.log(np.exp(first).sum())
    assert total == pytest.approx(head + last + tail, abs=1e-2)
    # Under a budget a text of the context's length leaves no room for one token more: its beginning is dropped.
    model = lm(budget="0.000001ms")
    assert math.isfinite(model.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))[0])
    model.session.close()


def likeliest(session: AdaptiveSession, depth: int, tokens: int) -> str:
    """The greedy reply to QUESTION of one depth, from the logits of ever longer texts."""
    prompt = session.codec.encode(QUESTION)
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(session.logits(ids, depth)[-1].argmax()))
    text = session.codec.stream(prompt)
    return "".join(text.step(token) for token in ids[len(prompt) :])


@pytest.mark.parametrize("settings", [{"depth": "full"}, {"depth": 3}, {"budget": "100000ms"}])
def test_replies_are_the_sessions_up_to_a_stop_string(settings: dict[str, Any]) -> None:
    model = lm(**settings)
    session = model.session
    session.budget = "full"
    expected = session.generate(QUESTION, 24) if model.depth != 3 else likeliest(session, 3, 24)
    stop = expected.split()[3]
    ask = {"until": [stop, "never"], "max_gen_toks": 24}
    cut, whole = model.generate_until(
        requests("generate_until", (QUESTION, ask), (QUESTION, {"until": [], "max_gen_toks": 24}))
    )
    assert whole == expected
    assert cut == expected[: expected.index(stop)]
    sampled = {"do_sample": True, "temperature": 1.5, "max_gen_toks": 8}
    assert len(model.generate_until(requests("generate_until", (QUESTION, sampled)))[0]) > 0
    session.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"depth": 3, "budget": "25ms"}, "exclude each other"),
        ({"depth": 4}, "no depth 4"),
        ({"pretrained": "x"}, "knows no pretrained"),
        ({"budget": "5 bananas"}, "bananas"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BalconyError, match=words) as caught:
        lm(**settings)
    assert caught.value.hint


def test_a_budget_that_ends_a_text_scores_nothing() -> None:
    model = lm(budget="0.001s@reply")
    with pytest.raises(DataError, match="ends a text"):
        model.loglikelihood(requests("loglikelihood", (QUESTION, ANSWERS[0] * 8)))
    model.session.close()


def test_a_model_without_template_refuses_conversations(full: BalconyLM) -> None:
    with pytest.raises(BalconyError, match="no chat template"):
        full.apply_chat_template([{"role": "user", "content": "hi"}])
    assert full.chat_template(False) == ""


# --- through the harness ---


@pytest.fixture
def local_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a task and its data; nothing may be asked of a network, nor kept in the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    rows = [
        {"question": QUESTION, "answers": ANSWERS, "label": 1},
        {"question": "The", "answers": [" dog", " of"], "label": 0},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "stories.yaml").write_text(
        f"""
task: stories_local
dataset_path: json
dataset_kwargs: {{data_files: {{test: {json.dumps(str(tmp_path / "rows.jsonl"))}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: question
target_delimiter: ""
doc_to_choice: answers
doc_to_target: label
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
    )
    return tmp_path


def test_a_local_task_through_the_entry_point(local_task: Path, full: BalconyLM) -> None:
    (entry,) = metadata.entry_points(group="lm_eval.models", name="balcony")
    register()
    register()
    assert get_model("balcony") is entry.load() is BalconyLM
    found = simple_evaluate(
        model="balcony",
        model_args="depth=full,provider=cpu",
        tasks=["stories_local"],
        task_manager=TaskManager(include_path=str(local_task), include_defaults=False),
        bootstrap_iters=0,
    )
    scores = [
        [full.loglikelihood(requests("loglikelihood", (question, answer)))[0][0] for answer in answers]
        for question, answers in ((QUESTION, ANSWERS), ("The", [" dog", " of"]))
    ]
    right = [np.argmax(row) == label for row, label in zip(scores, (1, 0), strict=True)]
    assert found["results"]["stories_local"]["acc,none"] == np.mean(right)


def test_the_command_hands_its_arguments_to_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from balcony_export.cli import lm_eval as command

    seen: list[list[str]] = []
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: seen.append(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", ["pytest"])
    arguments = ["--model", "balcony", "--model_args", "depth=3", "--tasks", "x", "--limit", "2"]
    fresh = app.typer.Typer()
    fresh.callback()(lambda: None)
    app.add_plugins(fresh)
    assert CliRunner().invoke(fresh, ["lm-eval", *arguments]).exit_code == 0
    assert seen == [arguments]
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(BalconyError, match=r"balcony-edge\[eval\]"):
        CliRunner().invoke(fresh, ["lm-eval"], catch_exceptions=False)


@pytest.mark.skipif(not DATA.is_dir(), reason="no shared evaluation data")
def test_tasks_over_the_shared_data_are_well_formed() -> None:
    register()
    names = sorted(path.stem for path in TASKS.glob("*.yaml"))
    assert len(names) == 7
    found = simple_evaluate(
        model="balcony",
        model_args="depth=3,provider=cpu",
        tasks=names,
        limit=2,
        task_manager=TaskManager(include_path=str(TASKS), include_defaults=False, metadata={"data": str(DATA)}),
        bootstrap_iters=0,
    )
    for name in names:
        metric = "word_perplexity,none" if name.startswith("wikitext") else "acc,none"
        assert math.isfinite(found["results"][name][metric])
    sample = {name: found["samples"][name][0] for name in names}
    assert sample["arc_easy_local"]["doc"]["choices"] == [
        "Sunlight is the source of energy for nearly all ecosystems.",
        "Most ecosystems are found on land instead of in water.",
        "Carbon dioxide is more available than other gases.",
        "The producers in all ecosystems are plants.",
    ]
    assert sample["arc_easy_local"]["doc"]["label"] == 0
    assert sample["winogrande_local"]["arguments"][1] == (
        "Sarah was a much better surgeon than Maria so Maria",
        " always got the easier cases.",
    )
    assert sample["boolq_local"]["arguments"][0] == (
        "Question: does ethanol take more energy make that produces?\nAnswer:",
        " no",
    )
    assert sample["wikitext2_local"]["doc"]["page"].startswith(" = Robert <unk> = ")


def test_a_start_token_that_the_template_wrote_is_not_added_again(tmp_path: Path) -> None:
    """The ids are those of the harness's own model of transformers."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    folder = tokenizer_zoo.write("byte level, start", tmp_path / "zoo")
    bundle = shutil.copytree(Bundle.demo().path, tmp_path / "bundle")
    source = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(source)
    manifest = json.loads((bundle / MANIFEST_NAME).read_text())
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(folder / name, bundle / name)
        manifest["files"][name] = file_entry(bundle / name).model_dump()
    (bundle / MANIFEST_NAME).write_text(json.dumps(manifest))
    ours = lm(bundle=str(bundle))
    theirs = HFLM.__new__(HFLM)
    theirs.tokenizer, theirs.add_bos_token = AutoTokenizer.from_pretrained(folder), None
    theirs.backend, theirs.custom_prefix_token_id = "causal", None
    chat = ours.apply_chat_template([{"role": "user", "content": "hi"}])
    assert chat == "<s>[user] hi"
    for text in (chat, "hi", " hi </s>", ""):
        for special in (None, True, False):
            expected = theirs.tok_encode(text, add_special_tokens=special)
            if expected:
                assert ours.tok_encode(text, add_special_tokens=special) == expected
    assert ours.tok_encode(chat).count(1) == 1
    assert ours.prefix_token_id == theirs.prefix_token_id == 1
    ours.session.close()


def test_a_chats_score_is_that_of_the_harness_s_own_model(tiny_model: Path, tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = str(folder / "tokenizer.json")
    framed(Tokenizer.from_file(tokenizer), "<|endoftext|> $A").save(tokenizer)
    (folder / "chat_template.jinja").write_text("{{ bos_token }}[{{ messages[0].content }}]")
    ours, theirs = (
        lm(bundle=str(export_bundle(folder, tmp_path / "bundle", model="m").path)),
        HFLM(str(folder), device="cpu"),
    )
    # The template writes the start token, which the tokenizer would add too.
    assert ours.tok_encode("a")[0] == ours.prefix_token_id
    assert (
        ours.tok_encode(ours.apply_chat_template([{"role": "user", "content": "a"}])).count(ours.prefix_token_id) == 1
    )
    asked = []
    for model in (ours, theirs):
        chat = model.apply_chat_template([{"role": "user", "content": QUESTION}])
        asked.append(model.loglikelihood(requests("loglikelihood", *((chat, answer) for answer in ANSWERS))))
    for own, other in zip(*asked, strict=True):
        assert own[0] == pytest.approx(other[0], abs=1e-3)
        assert own[1] == other[1]
    ours.session.close()
