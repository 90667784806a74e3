"""A bundle without exits: there is one depth, and drafts from the text still make lossless replies cheaper."""

from __future__ import annotations

import pytest

from balcony_controller import FixedDepth
from balcony_edge import AdaptiveSession, Bundle
from balcony_export.bundling.writer import export_bundle
from helpers.places import DEMO_BASE

PROMPT = "Once upon a time, there was a little"
TOKENS = 200


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("without") / "bundle"
    export_bundle(DEMO_BASE, folder, model="demo", exits=None)
    return Bundle(folder)


def test_text_that_repeats_takes_fewer_passes_and_less_time(bundle: Bundle) -> None:
    """A greedy reply of a small model runs in circles sooner or later. Time is steady: a graph run costs what it is."""
    with AdaptiveSession(bundle, provider="cpu") as session:
        assert session.ladder.depths == (session.ladder.full,)
        plain = session.reply(PROMPT, TOKENS, decider=FixedDepth(session.ladder.full))
        expected = [token.id for token in plain]
        reply = session.reply(PROMPT, TOKENS)
        found = list(reply)
        report = session.report()
    assert [token.id for token in found] == expected
    assert report.lossless
    assert report.looked_up == report.accepted > len(expected) / 8
    assert reply.figures.decode_ms < 0.9 * plain.figures.decode_ms
