"""Bundles for GPUs, whose head itself says what is likeliest: run on the CPU, beside the same weights' CPU bundle."""

from __future__ import annotations

import numpy as np
import pytest

from balcony_controller import FixedDepth, FixedDrafts
from balcony_edge import AdaptiveSession, Bundle
from balcony_edge.decoding.loop import Decoder
from balcony_edge.engine.answers import FromHead, FromLogits
from balcony_edge.engine.ladder import Ladder
from balcony_edge.engine.runtime import Runtime
from balcony_edge.engine.sampling import Sampler
from balcony_edge.telemetry import FakeSensors
from balcony_export.bundling.writer import export_bundle
from balcony_export.graphs.formats import ACTIVATION_TYPES, ExportOptions
from helpers.places import DEMO_BASE, DEMO_EXITS
from helpers.random_governor import RandomGovernor

PROMPT = [1, 37, 210, 11]
TOKENS = 40


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    variants = {"cpu": ExportOptions(exactness="float"), "cuda": ExportOptions("cuda", "fp32")}
    with pytest.MonkeyPatch.context() as patch:
        # No GPU computes it, but a CPU does, to the digits of the other.
        patch.setitem(ACTIVATION_TYPES, ("cuda", "fp32"), "fp32")
        for name, options in variants.items():
            export_bundle(DEMO_BASE, folder / name, model="demo", exits=DEMO_EXITS, options=options)
    return {name: Bundle(folder / name) for name in variants}


@pytest.fixture
def ladders(bundles: dict[str, Bundle]) -> tuple[Ladder, Ladder]:
    runtime = Runtime.start("cpu")
    plain, answering = (Ladder(bundle, runtime) for bundle in bundles.values())
    return plain, answering


def test_its_answers_are_those_of_its_logits(ladders: tuple[Ladder, Ladder]) -> None:
    plain, answering = ladders
    ids = np.random.default_rng(0).integers(3, answering.vocabulary, 50).tolist()
    for ladder in ladders:
        ladder.append(ids)
    for depth in answering.depths:
        for start, stop in ((0, 50), (49, 50), (20, 23)):
            said = answering.answers(depth, start, stop)
            found = [(said.token(row), said.confidence(row)) for row in range(stop - start)]
            assert isinstance(said, FromHead)
            read = FromLogits(answering.logits(depth, start, stop))
            for row, (token, confidence) in enumerate(found):
                assert token == read.token(row)
                assert confidence[:2] == pytest.approx(read.confidence(row)[:2], abs=2e-5)
            others = plain.answers(depth, start, stop)
            assert isinstance(others, FromLogits)
            assert [others.token(row) for row in range(stop - start)] == [token for token, _ in found]


@pytest.mark.parametrize("kind", ["full", "exit", "drafts", "by lot"])
def test_greedy_decoding_fetches_no_logits(
    ladders: tuple[Ladder, Ladder], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, answering = ladders
    first, full = plain.depths[0], plain.full
    tokens = []
    for ladder in (plain, answering):
        policy = {
            "full": FixedDepth(full),
            "exit": FixedDepth(first),
            "drafts": FixedDrafts(first, 3),
            "by lot": RandomGovernor(ladder.depths, 5),
        }[kind]
        if ladder is answering:
            monkeypatch.setattr(ladder, "logits_view", None)
        ladder.append(PROMPT)
        decoder = Decoder(ladder, policy, Sampler(), PROMPT, frozenset())
        while len(decoder.tokens) < TOKENS:
            decoder.step(TOKENS - len(decoder.tokens))
        decoder.verify_emitted()
        tokens.append(decoder.tokens)
    assert tokens[0] == tokens[1]


def test_sampling_reads_the_same_logits(bundles: dict[str, Bundle]) -> None:
    texts = []
    for bundle in bundles.values():
        with AdaptiveSession(bundle, budget="full", provider="cpu", sensors=FakeSensors()) as session:
            texts.append([token.text for token in session.stream("Once upon a time", 20, temp=0.8, seed=4)])
    assert texts[0] == texts[1]


def test_a_whole_session_runs_on_it(bundles: dict[str, Bundle]) -> None:
    with AdaptiveSession(bundles["cuda"], budget="0.5ms", provider="cpu", sensors=FakeSensors()) as session:
        assert len(list(session.stream("The big dog", 24))) == 24
        assert session.audit().agreement is not None
