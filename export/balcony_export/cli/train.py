"""``balcony-edge train``: one Balcony and one gate per split, the base untouched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from balcony_export.extras import require_workstation

if TYPE_CHECKING:
    from balcony_export.exits.store import Exits


def train(
    model: Annotated[str, typer.Argument(help="The base: a model folder or a Hub id. It is never changed.")],
    splits: Annotated[
        str,
        typer.Option(help="After how many base layers an exit hangs, as in 3,6,9; auto:3 spaces three by their costs."),
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            help="Training data, repeatable: text (UTF-8; documents end in a line <|endoftext|>) or .jsonl with text "
            "or messages, plain, .xz or .gz; .parquet; hub:owner/name:config:split; or self: the base's own samples."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder for the exits.")],
    preset: Annotated[
        str,
        typer.Option(help="What the other options start from: default, or paper (its choices, rates and size)."),
    ] = "default",
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps of the exits. Default: 1000.", show_default=False)
    ] = None,
    heldout: Annotated[
        list[Path] | None,
        typer.Option(help="Text to calibrate and measure on; without it a fiftieth of the documents. Repeatable."),
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Sequences per step. Default: 16.")] = None,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Pieces that a step's rows are taken in, one after the other: less memory.")
    ] = 1,
    length: Annotated[
        int | None,
        typer.Option(min=8, help="Tokens per sequence. Default: 512, or the model's context if shorter."),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Peak learning rate of the exits. Default: 5e-4 * sqrt(4096 / hidden size)."),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="What the exits lower: kl (default), reverse-kl, js, topk-kl, or ce (to the text)."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Divides the logits of both sides in the loss. Default: 1.")
    ] = None,
    width: Annotated[
        str | None,
        typer.Option(help="What an exit has before its norm: layer (default), mlp (no KV cache), or norm (nothing)."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="Which base layer an exit starts as: last (default), or next (the one after the split)."),
    ] = None,
    norm_start: Annotated[
        str | None,
        typer.Option(
            help="What an exit's norm starts as: final (the base's; default) or layer (the next layer's input norm)."
        ),
    ] = None,
    begin: Annotated[
        Path | None,
        typer.Option("--from", help="A folder of trained exits to go on from: longer, or on other text."),
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Train the exits of these splits alone; the others stay as --from has them.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="fp32, or bf16 for speed on GPUs; the exits' weights stay fp32.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto takes the GPU if there is one; or cpu, cuda, cuda:1, …")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Fixes the batches and the gates' beginnings.")] = 0,
    shard_base: Annotated[
        bool, typer.Option("--shard-base", help="Several processes share the base's layers (FSDP): for large bases.")
    ] = False,
    self_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens to sample for --data self. Default: what the run takes in, 2 million at most."
        ),
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between two saved states to resume from.")] = 200,
    look_every: Annotated[
        int, typer.Option(min=0, help="Steps between looks at held-out text; the best exits are kept. 0: the last.")
    ] = 100,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub model.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what the Hub cache holds.")] = False,
) -> None:
    """Train early exits for a frozen base by self-distillation.

    Run the same command again after an interruption: it goes on where the last saved state left off. On several GPUs:
    accelerate launch -m balcony_edge train …
    """
    require_workstation()
    from balcony_export.exits import placement, widths
    from balcony_export.model import architectures, download

    count = placement.automatic(splits)
    named = [] if count is not None else architectures.parse_splits(splits)
    chosen_width = widths.check_width(width or "layer")

    folder = download.resolve(model, revision, offline)
    blueprint = architectures.read(folder)
    chosen = named if count is None else placement.place(count, blueprint, chosen_width)
    architectures.check_splits(chosen, blueprint.arch.layers)

    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    from balcony_export.training.loop import TrainConfig
    from balcony_export.training.run import Job, train_exits

    job = Job(
        folder=folder,
        name=folder.resolve().name if Path(model).expanduser().is_dir() else model,
        texts=tuple(data),
        out=out,
        heldout=tuple(heldout or ()),
        device=device,
        save_every=save_every,
        shard_base=shard_base,
        begin=begin,
        self_tokens=self_tokens,
    )
    config = TrainConfig.for_base(
        blueprint.arch,
        chosen,
        preset,
        only=None if only is None else tuple(architectures.parse_splits(only)),
        steps=max_steps,
        rows=rows,
        accumulate=accumulate,
        length=length,
        learning_rate=lr,
        loss=loss,
        temperature=temperature,
        width=width,
        start=start,
        norm_start=norm_start,
        dtype=dtype,
        seed=seed,
        look_every=look_every,
    )
    trained = train_exits(job, config)
    if int(os.environ.get("RANK", "0")) == 0:
        report(trained, model, out)


def report(exits: Exits, model: str, folder: Path) -> None:
    """Print a short table of the exits and the command to run next, on stderr."""
    from rich.console import Console
    from rich.table import Table

    quality: Any = exits.quality
    table = Table(title=f"Exits of {exits.base_model} on {quality['heldout_tokens']:,} held-out tokens")
    for column in ("exit", "agrees", "untrained lens", "KL (nats)", "gate AUROC", "gate ECE"):
        table.add_column(column, justify="right")
    for split in exits.splits:
        row = quality["exits"][str(split)]
        ranked = "n/a" if row["gate_auroc"] is None else f"{row['gate_auroc']:.3f}"
        table.add_row(
            str(split),
            f"{row['agreement']:.3f}",
            f"{row['lens_agreement']:.3f}",
            f"{row['kl_nats']:.3f}",
            ranked,
            f"{row['gate_ece']:.3f}",
        )
    console = Console(stderr=True)
    console.print(table)
    after = f"balcony-edge export {model} --exits {folder} -o BUNDLE"
    console.print(f"wrote {folder}; next: {after}", highlight=False, markup=False, soft_wrap=True)
