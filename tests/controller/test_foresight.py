"""What a token is worth where drafts of the text and of the draft stage are weighed."""

from __future__ import annotations

import pytest

from balcony_controller import Governor
from balcony_controller.verdict import MOST_MATCH, Found
from helpers.fakes import FULL_MS, governor


def stepped(found: Governor, ms: float, tokens: int, looked_up: bool) -> None:
    """One step, with drafts of the text or without any."""
    found.lookup(Found(MOST_MATCH, 4) if looked_up else Found(0, 0))
    found.foresight.end_step(ms, ms, tokens)


def test_tokens_that_the_text_gave_do_not_make_the_others_cheap() -> None:
    """However fast a quotation goes, a guess behind it saves what a token takes without the text."""
    found = governor("full", drafts=True)
    found.begin({}, 400)
    for _ in range(300):
        stepped(found, FULL_MS, 1, looked_up=False)
    before = found.foresight._token_ms()
    for _ in range(300):
        stepped(found, FULL_MS, 5, looked_up=True)
    assert found.foresight._token_ms() == before == pytest.approx(FULL_MS, rel=0.01)


def test_guesses_that_pay_make_the_next_ones_compete() -> None:
    found = governor("full", drafts=True)
    found.begin({}, 400)
    for _ in range(300):
        stepped(found, FULL_MS, 2, looked_up=False)
    assert found.foresight._token_ms() == pytest.approx(FULL_MS / 2, rel=0.01)


def test_what_was_learnt_can_be_read() -> None:
    chances = governor("full", drafts=True).foresight.chances
    assert chances.keys() == {"text", "first guess", "later guess"}
    assert all(0.0 < chance < 1.0 for listed in chances.values() for chance in listed)
