"""Stop texts: found over the borders of tokens, never given out, and nothing else is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_edge.decoding.stops import Stops
from balcony_edge.errors import PromptError

LETTERS = st.text("abc", max_size=12)


def through(stops: Stops, pieces: list[str]) -> str:
    """All that comes out for the pieces of a reply."""
    out = []
    for piece in pieces:
        out.append(stops.step(piece))
        if stops.found:
            return "".join(out)
    return "".join([*out, stops.rest()])


@given(st.lists(LETTERS, max_size=8), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_the_text_up_to_the_first_stop_comes_out(pieces: list[str], texts: list[str]) -> None:
    whole = "".join(pieces)
    stops = Stops(texts)
    places = [whole.find(text) for text in texts if text in whole]
    assert through(stops, pieces) == (whole[: min(places)] if places else whole)
    assert stops.found == bool(places)


def test_text_is_held_only_while_it_may_begin_a_stop() -> None:
    stops = Stops(["\n\n"])
    assert [stops.step(piece) for piece in ("a", "\n", "b", "\n", "\nc")] == ["a", "", "\nb", "", ""]
    assert stops.found


def test_ids_and_texts_are_told_apart_and_an_empty_text_is_refused() -> None:
    assert Stops([3, "a"]).ids == {3}
    with pytest.raises(PromptError, match="empty"):
        Stops([""])
