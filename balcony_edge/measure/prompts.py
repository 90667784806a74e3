"""What models are asked where replies are measured or recorded: beginnings of stories, or questions to those that chat.

There are many because over a few replies one policy can look better than another by chance.
"""

from __future__ import annotations

import itertools

from balcony_edge.text.codec import TextCodec

HEROES = (
    "a little girl named Lily",
    "a boy named Tom",
    "a big brown bear",
    "a tiny mouse",
    "an old farmer",
    "a brave knight",
    "two good friends",
    "the lazy cat",
    "Grandma",
    "a small bird",
    "Sara and her brother",
    "a king who had no crown",
)
OPENINGS = (
    "Once upon a time there was {}",
    "One day {} went to the park",
    "It was a cold and windy night, and {}",
    "In a house near the sea lived {}",
    "Every morning {} played with",
    "The sun was hot, so {}",
    "In the forest {} found an old box",
    "On the way home, {} saw",
    "There was a problem: {} had lost",
)
TOPICS = (
    "photosynthesis",
    "electric cars",
    "baking bread",
    "the Roman Empire",
    "public speaking",
    "sleep",
    "chess",
    "rivers",
    "learning a language",
    "vaccines",
    "a small garden",
    "music for children",
)
REQUESTS = (
    "Explain {} to a ten-year-old.",
    "What is the history of {}?",
    "List five facts about {}.",
    "Write a short poem about {}.",
    "What are the advantages and disadvantages of {}?",
    "Write an email to a friend about {}.",
    "How do I get better at {}, or at understanding it?",
    "Tell me a story about {}.",
    "Which mistakes do people make with {}?",
)


def _each(forms: tuple[str, ...], words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(form.format(word) for word, form in itertools.product(words, forms))


STORIES, QUESTIONS = _each(OPENINGS, HEROES), _each(REQUESTS, TOPICS)


def prompts_for(codec: TextCodec, count: int | None = None) -> list[list[int]]:
    """The ids of ``count`` prompts (None: all): questions for a bundle with a chat template, else stories."""
    chats = codec.chat_template is not None
    texts = QUESTIONS if chats else STORIES
    chosen = texts[:: max(1, len(texts) // (count or len(texts)))][:count]
    if chats:
        return [codec.encode_chat([{"role": "user", "content": text}]) for text in chosen]
    return [codec.encode(text) for text in chosen]
