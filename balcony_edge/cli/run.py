"""``balcony-edge run``: streams a reply under a budget."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from balcony_edge.cli.options import AllowClocks, BundleName, Threads, finite
from balcony_edge.errors import PromptError, StreamError


def run(
    bundle: BundleName = None,
    source: Annotated[str | None, typer.Argument(metavar="[-]", help="- reads the prompt from stdin.")] = None,
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="The prompt. - reads it from stdin.")] = None,
    file: Annotated[Path | None, typer.Option("-f", "--file", help="Read the prompt from a file.")] = None,
    budget: Annotated[
        str,
        typer.Option(
            envvar="BALCONY_BUDGET",
            help="What a token may cost: 25ms (on average), 40tok/s, 25ms@p95 (95 of 100 tokens), 2s@reply (the whole "
            "reply), 8W, 0.4J (a token), 3h (battery), battery=20%@3h (left then), gpu=60% (total load). Join several "
            "with commas. full: no limit, lossless.",
        ),
    ] = "full",
    min_agreement: Annotated[
        float,
        typer.Option(
            callback=finite,
            min=0.0,
            max=1.0,
            help="Least share of tokens that must be the full model's. It wins over the budget.",
        ),
    ] = 0.0,
    max_temp: Annotated[
        float | None,
        typer.Option(
            callback=finite, help="Keep the device below this temperature (°C), ahead of time where its power is known."
        ),
    ] = None,
    min_battery: Annotated[
        float | None,
        typer.Option(
            callback=finite, min=0.0, max=1.0, help="Below this battery level (0 to 1) only the shallowest exit runs."
        ),
    ] = None,
    power_model: Annotated[
        str | None,
        typer.Option(
            help="Watts to assume if no sensor tells the power: IDLE:ACTIVE, or profile (the device profile's)."
        ),
    ] = None,
    allow_clocks: AllowClocks = False,
    log: Annotated[
        Path | None, typer.Option(help="Write a decision log to this file, one JSON line a step (see explain).")
    ] = None,
    log_text: Annotated[
        bool, typer.Option("--log-text", help="Write the tokens' texts into the log too, for explain --html.")
    ] = False,
    trace: Annotated[Path | None, typer.Option(hidden=True, help="The former name of --log.")] = None,
    max_tokens: Annotated[int, typer.Option("-n", "--max-tokens", min=1, help="Largest number of new tokens.")] = 256,
    temp: Annotated[
        float, typer.Option(envvar="BALCONY_TEMP", help="Sampling temperature. 0: always the likeliest token (greedy).")
    ] = 0.0,
    top_k: Annotated[int, typer.Option(help="Sample from the k likeliest tokens only. 0: from all.")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Sample from the likeliest tokens that together have this probability.")
    ] = 1.0,
    min_p: Annotated[
        float, typer.Option(help="Sample only tokens at least this share as likely as the likeliest.")
    ] = 0.0,
    repeat_penalty: Annotated[
        float, typer.Option(help="Above 1: make tokens less likely that were there before.")
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Seed for sampling: the same seed gives the same text.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End the reply before this text. Repeatable.")] = None,
    provider: Annotated[
        str,
        typer.Option(envvar="BALCONY_PROVIDER", help="auto, cpu or cuda. cuda is an error if it does not work here."),
    ] = "auto",
    threads: Threads = None,
    speculate: Annotated[
        bool | None,
        typer.Option(
            "--speculate/--no-speculate",
            help="Lossless drafting: exits draft, the full model verifies. Default: where faster and bit-exact here.",
        ),
    ] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template/--no-chat-template", help="Use the model's chat template, if it has one.")
    ] = True,
    parse_special: Annotated[
        bool,
        typer.Option(
            "--parse-special",
            help="Special tokens typed into a chat prompt, such as <|im_end|>, become these tokens. Default: they stay "
            "text.",
        ),
    ] = False,
    audit: Annotated[
        bool,
        typer.Option("--audit/--no-audit", help="Measure after the reply how many of its tokens are the full model's."),
    ] = True,
    prompt_cache: Annotated[
        Path | None,
        typer.Option(
            "--prompt-cache",
            help="Keep the caches of the prompt in this file, so that a later start can skip them. Made if missing.",
        ),
    ] = None,
    max_context: Annotated[
        int | None, typer.Option(min=2, help="Largest number of positions. Fewer need less memory.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit, for a bundle on the Hub.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Download nothing; use what is cached.")] = False,
    base: Annotated[
        str | None,
        typer.Option(help="Your copy of a thin bundle's base (folder, .gguf file, Hub id), to complete it once."),
    ] = None,
) -> None:
    """Stream a reply under a budget: the text to stdout, a line of figures to stderr."""
    if bundle == "-" and source is None:
        bundle, source = None, "-"
    if source not in (None, "-"):
        raise PromptError(f"unexpected argument {source!r}", 'a prompt is given as -p "TEXT", -f FILE or -')
    text = _prompt(prompt if source is None else "-", file)

    from balcony_controller import Limits
    from balcony_edge.bundle.open import open_bundle
    from balcony_edge.control.budgets import parse_budget
    from balcony_edge.control.decision_log import DecisionLog
    from balcony_edge.control.keepable import shortfall
    from balcony_edge.control.signals import read_power_model
    from balcony_edge.engine.footprint import Footprint
    from balcony_edge.session import AdaptiveSession
    from balcony_edge.system.terminal import cell, shown

    wanted, power = parse_budget(budget), read_power_model(power_model)  # before a download
    opened = open_bundle(bundle, revision=revision, offline=offline, base=base)
    context = opened.manifest.architecture.context
    print(Footprint.of(opened.manifest).line(min(max_context or context, context)), file=sys.stderr)
    with ExitStack() as stack:
        path = trace if log is None else log
        decisions = None if path is None else stack.enter_context(DecisionLog(path, log_text))
        session = stack.enter_context(
            AdaptiveSession(
                opened,
                budget=wanted,
                provider=provider,
                threads=threads,
                max_context=max_context,
                speculate=speculate,
                min_agreement=min_agreement,
                limits=Limits(max_temp, min_battery),
                power_model=power,
                allow_clocks=allow_clocks,
                log=decisions,
            )
        )
        if (short := shortfall(session.governor)) is not None:
            print(f"balcony-edge: {short}", file=sys.stderr)
        interrupted = False
        if chat_template and session.codec.chat_template is not None:
            given: str | list[int] = session.codec.encode_chat(
                [{"role": "user", "content": text}], parse_special=parse_special
            )
        else:
            given = text
        if prompt_cache is not None and prompt_cache.exists():
            session.load_prompt(prompt_cache)
        tokens = session.stream(given, max_tokens, temp, top_k, top_p, min_p, repeat_penalty, seed, stop or ())
        try:
            for token in tokens:
                sys.stdout.write(shown(token.text, sys.stdout))
                sys.stdout.flush()
        except KeyboardInterrupt:
            interrupted = True
        sys.stdout.write("\n")
        sys.stdout.flush()
        report = session.audit() if audit else session.report()
        print(cell(report.line()), file=sys.stderr)
        if why := report.why():
            print(cell(why), file=sys.stderr)
        if prompt_cache is not None and not prompt_cache.exists():
            session.save_prompt(given, prompt_cache)
    if interrupted:
        raise typer.Exit(130)


def _prompt(prompt: str | None, file: Path | None) -> str:
    """The text of the prompt, from -p, -f or stdin. Raises PromptError if there is none, two, or no UTF-8."""
    from balcony_edge.text import given_text

    if prompt is not None and file is not None:
        raise PromptError("both -p and -f were given", "give one of them")
    if file is not None and str(file) != "-":
        return given_text.read_file(file)
    if prompt == "-" or file is not None:
        return given_text.decode_bytes(_read_stdin(), "the prompt on stdin")
    if prompt is None:
        raise PromptError("there is no prompt", 'give one: -p "Once upon a time", -f FILE, or - for stdin')
    return given_text.check_text(prompt)


def _read_stdin() -> bytes:
    try:
        return sys.stdin.buffer.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StreamError(f"cannot read stdin: {reason}", 'give the prompt otherwise: -p "TEXT", or -f FILE') from error
