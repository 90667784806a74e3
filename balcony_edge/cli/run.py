"""``balcony-edge run``: stream a reply under a budget."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from balcony_edge.errors import PromptError


def run(
    bundle: Annotated[
        str | None, typer.Argument(help="A bundle folder or a Hub id (owner/name); none: the embedded demo.")
    ] = None,
    source: Annotated[str | None, typer.Argument(metavar="[-]", help="-: the prompt comes from stdin.")] = None,
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="The prompt; - reads stdin.")] = None,
    file: Annotated[Path | None, typer.Option("-f", "--file", help="Read the prompt from a file.")] = None,
    budget: Annotated[
        str,
        typer.Option(
            envvar="BALCONY_BUDGET",
            help="25ms (mean per token), 40tok/s, 25ms@p95, 2s@reply, 8W, 0.4J (per token), 3h (battery), "
            "battery=20%@3h, gpu=60%, several joined by commas, or full (lossless).",
        ),
    ] = "full",
    min_agreement: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the full model's tokens that no budget may push below.")
    ] = 0.0,
    max_temp: Annotated[
        float | None, typer.Option(help="°C above which only the shallowest exit runs, with pauses.")
    ] = None,
    min_battery: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Level below which only the shallowest exit runs.")
    ] = None,
    power_model: Annotated[
        str | None,
        typer.Option(help="IDLE:ACTIVE watts, or profile: what to go by where no sensor tells the power."),
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Write each decision to a file, one JSON line a step.")] = None,
    trace: Annotated[Path | None, typer.Option(hidden=True, help="The former name of --log.")] = None,
    max_tokens: Annotated[int, typer.Option("-n", "--max-tokens", min=1, help="Tokens at the most.")] = 256,
    temp: Annotated[float, typer.Option(envvar="BALCONY_TEMP", help="Temperature; 0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the k most likely tokens; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens of this total probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Keep tokens at least this share as likely as the likeliest.")] = 0.0,
    repeat_penalty: Annotated[float, typer.Option(help="Above 1: make tokens that were there less likely.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Seed of sampling; the same seed, the same text.")] = None,
    provider: Annotated[
        str,
        typer.Option(envvar="BALCONY_PROVIDER", help="auto, cpu or cuda; cuda is an error where it is not had."),
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(envvar="BALCONY_THREADS", min=1, help="CPU threads; default: physical cores."),
    ] = None,
    speculate: Annotated[
        bool | None,
        typer.Option(
            "--speculate/--no-speculate",
            help="Let exits draft for the full model, losslessly; default: where it pays and is bit-exact here.",
        ),
    ] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template/--no-chat-template", help="Use the model's chat template if it has one.")
    ] = True,
    audit: Annotated[
        bool,
        typer.Option("--audit/--no-audit", help="After the reply, measure how many tokens are the full model's."),
    ] = True,
    prompt_cache: Annotated[
        Path | None,
        typer.Option(
            "--prompt-cache",
            help="Keep the prompt's caches in this file (made if it is not there): a later start skips what it holds.",
        ),
    ] = None,
    max_context: Annotated[int | None, typer.Option(min=2, help="Positions at the most (less memory).")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a bundle on the Hub.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what the caches hold.")] = False,
) -> None:
    """Stream a reply under a budget: text to stdout, one line of figures to stderr."""
    if bundle == "-" and source is None:
        bundle, source = None, "-"
    if source not in (None, "-"):
        raise PromptError(f"unexpected argument {source!r}", 'a prompt is given as -p "TEXT", -f FILE or -')
    text = _prompt(prompt if source is None else "-", file)

    from balcony_controller import Limits
    from balcony_edge.bundle.open import open_bundle
    from balcony_edge.control.decision_log import DecisionLog
    from balcony_edge.control.signals import read_power_model
    from balcony_edge.engine.footprint import Footprint
    from balcony_edge.session import AdaptiveSession, parse_budget

    wanted, power = parse_budget(budget), read_power_model(power_model)  # before a download
    opened = open_bundle(bundle, revision=revision, offline=offline)
    context = opened.manifest.architecture.context
    print(Footprint.of(opened.manifest).line(min(max_context or context, context)), file=sys.stderr)
    with ExitStack() as stack:
        path = trace if log is None else log
        decisions = None if path is None else stack.enter_context(DecisionLog(path))
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
                log=decisions,
            )
        )
        interrupted = False
        if chat_template and session.codec.chat_template is not None:
            given: str | list[int] = session.codec.encode_chat([{"role": "user", "content": text}])
        else:
            given = text
        if prompt_cache is not None and prompt_cache.exists():
            session.load_prompt(prompt_cache)
        tokens = session.stream(given, max_tokens, temp, top_k, top_p, min_p, repeat_penalty, seed)
        try:
            for token in tokens:
                sys.stdout.write(token.text)
                sys.stdout.flush()
        except KeyboardInterrupt:
            interrupted = True
        sys.stdout.write("\n")
        sys.stdout.flush()
        report = session.audit() if audit else session.report()
        print(report.line(), file=sys.stderr)
        if prompt_cache is not None and not prompt_cache.exists():
            session.save_prompt(given, prompt_cache)
    if interrupted:
        raise typer.Exit(130)


def _prompt(prompt: str | None, file: Path | None) -> str:
    """The prompt's text from -p, -f or stdin."""
    if prompt is not None and file is not None:
        raise PromptError("both -p and -f were given", "give one of them")
    if file is not None and str(file) != "-":
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PromptError(f"cannot read the prompt file {file}: {error}", "give a UTF-8 text file") from error
    if prompt == "-" or file is not None:
        return sys.stdin.read()
    if prompt is None:
        raise PromptError("there is no prompt", 'give one: -p "Once upon a time", -f FILE, or - for stdin')
    return prompt
