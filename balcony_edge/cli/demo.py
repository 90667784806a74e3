"""``balcony-edge demo``: a question answered twice, at full depth and under a budget of about half its cost."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from balcony_edge.cli.options import Provider, Threads
from balcony_edge.errors import BalconyError

MODEL = "smollm2-135m"
QUESTION = "Why is the sky blue?"
STORY = "Once upon a time"


def demo(
    model: Annotated[
        str | None,
        typer.Argument(
            help=f"A name that balcony-edge models lists, a bundle folder or a Hub id. Default: {MODEL}, or the "
            "embedded stories where that cannot be had."
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="What to ask.")] = None,
    share: Annotated[
        float, typer.Option(min=0.05, max=1.0, help="The second answer's budget, as a share of the first one's cost.")
    ] = 0.5,
    max_tokens: Annotated[int, typer.Option("-n", "--max-tokens", min=2, help="Largest number of new tokens.")] = 96,
    provider: Provider = "auto",
    threads: Threads = None,
    offline: Annotated[bool, typer.Option("--offline", help="Download nothing; use what is cached.")] = False,
) -> None:
    """Answer a question twice, at full depth and under a budget, and show what the budget cost and gave up."""
    from rich.console import Console

    from balcony_edge.bundle import catalogue
    from balcony_edge.bundle.open import open_bundle
    from balcony_edge.measure.two_answers import answer_twice
    from balcony_edge.measure.two_columns import pages
    from balcony_edge.session import AdaptiveSession

    console = Console()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    name = model or MODEL
    if (entry := catalogue.find(name)) is not None:
        say(f"{name}: fetched and completed the first time, {entry.bytes / 1e6:.0f} MB and about half a minute of work")
    try:
        bundle = open_bundle(name, offline=offline)
    except BalconyError as error:
        if model is not None:
            raise
        say(f"The embedded stories answer, since {MODEL} cannot be had: {error.message}\n  → {error.hint}")
        name, bundle = catalogue.STORIES, open_bundle(None)
    with AdaptiveSession(bundle, provider=provider, threads=threads) as session:
        question = prompt or (STORY if session.codec.chat_template is None else QUESTION)
        say(f"{bundle.manifest.base.model} is asked: {question}\n")
        with pages(console) as shown:

            def begin(number: int) -> None:
                shown.title(number, f"under a budget of {session.budget} a token" if number else "at full depth")

            found = answer_twice(session, question, max_tokens, share, shown.add, begin)
        say(f"\n{found.table()}\n")
        if (entry := catalogue.find(name)) is not None and entry.note:
            say(f"{entry.note}\n")
        say(f"go on with:  balcony-edge run {name} --budget {session.budget} -p {shlex.quote(question)}")
