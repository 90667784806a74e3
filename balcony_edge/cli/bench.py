"""``balcony-edge bench``: tokens per second of every exit, full depth, lossless speculation and budgets."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any

import typer

from balcony_edge.cli.options import BundleName, Provider


class Output(str, Enum):
    """Form of the result."""

    MD = "md"
    JSON = "json"
    CSV = "csv"


def bench(
    bundle: BundleName = None,
    prompt_tokens: Annotated[
        int, typer.Option("-p", "--n-prompt", min=1, help="Length of the prompt, in tokens.")
    ] = 512,
    new_tokens: Annotated[int, typer.Option("-n", "--n-gen", min=2, help="Number of tokens to decode.")] = 128,
    rounds: Annotated[int, typer.Option("-r", "--repetitions", min=1, help="How often to measure every mode.")] = 5,
    budget: Annotated[
        list[str] | None,
        typer.Option(help="Also decode under this budget, such as 25ms. Repeatable. Default: two in between."),
    ] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="Form of the result.")] = Output.MD,
    provider: Provider = "auto",
    threads: Annotated[
        int | None, typer.Option("-t", "--threads", envvar="BALCONY_THREADS", min=1, help="CPU threads.")
    ] = None,
    speculate: Annotated[
        bool | None,
        typer.Option(
            "--speculate/--no-speculate", help="Lossless drafting, as in run. Default: if it is bit-exact here."
        ),
    ] = None,
    max_context: Annotated[
        int | None, typer.Option(min=2, help="Largest number of positions. Fewer need less memory.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit, for a bundle on the Hub.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Download nothing; use what is cached.")] = False,
) -> None:
    """Measure how fast a bundle is on this machine. A row each: exits, full depth, lossless drafting, budgets."""
    from balcony_edge.bundle.open import open_bundle
    from balcony_edge.control.budgets import parse_budget
    from balcony_edge.measure.bench import bench as measure
    from balcony_edge.session import AdaptiveSession

    budgets = tuple(budget or ())
    for text in budgets:
        parse_budget(text)  # before a download
    opened = open_bundle(bundle, revision=revision, offline=offline)
    with AdaptiveSession(
        opened, provider=provider, threads=threads, max_context=max_context, speculate=speculate
    ) as session:
        found = measure(session, prompt_tokens, new_tokens, rounds, budgets, _progress())
    write: dict[Output, Callable[[dict[str, Any]], str]] = {
        Output.MD: markdown,
        Output.JSON: json.dumps,
        Output.CSV: comma_separated,
    }
    typer.echo(write[output](found))


def _progress() -> Callable[[str], None]:
    """Prints progress on one line of a terminal; elsewhere it prints nothing."""
    if not sys.stderr.isatty():
        return lambda _: None
    return lambda text: print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)


def name(row: dict[str, Any], full: int) -> str:
    """The printed name of a row's mode: "exit 3 of 12", "full", "lossless", "adaptive 25ms"."""
    if row["mode"] == "exit":
        return f"exit {row['depth']} of {full}"
    return f"adaptive {row['budget']}" if row["mode"] == "adaptive" else str(row["mode"])


def markdown(found: dict[str, Any]) -> str:
    """A table in Markdown like llama-bench's, then one line about the machine."""
    machine = found["machine"]
    full = next(row["depth"] for row in found["rows"] if row["mode"] == "full")
    head = [
        *("model", "size", "precision", "backend", "threads", "mode"),
        *(f"pp{found['prompt_tokens']} t/s", f"tg{found['new_tokens']} t/s"),
        *("J/token", "agreement", "drafts accepted", "of traffic bound"),
    ]
    rows = [head, ["---", "---:", "---", "---", "---:", "---", *["---:"] * 6]]
    for row in found["rows"]:
        rows.append(
            [
                machine["model"],
                f"{machine['weights_bytes'] / 2**20:.1f} MiB",
                machine["precision"],
                machine["provider"].upper(),
                str(machine["threads"]),
                name(row, full),
                f"{row['pp_tok_s']:.2f} ± {row['pp_sd']:.2f}",
                f"{row['tg_tok_s']:.2f} ± {row['sd']:.2f}",
                _number(row["j_per_token"], ".4f"),
                _number(row["agreement"], ".3f"),
                _number(row["accepted"], ".0%"),
                _number(row["traffic_share"], ".2f"),
            ]
        )
    lines = [f"| {' | '.join(row)} |" for row in rows]
    about = f"{machine['processor']}, onnxruntime {machine['onnxruntime']}, {found['rounds']} rounds"
    return "\n".join([*lines, "", about])


def comma_separated(found: dict[str, Any]) -> str:
    """CSV with one line per row; each has the columns of the machine too."""
    out = io.StringIO()
    rows = [{**row, **found["machine"]} for row in found["rows"]]
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().rstrip("\n")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
