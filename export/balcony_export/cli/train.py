"""``balcony-edge train``: one Balcony and one gate per split, the base untouched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from balcony_edge.cli.options import finite
from balcony_export.cli.options import (
    BaseModel,
    Device,
    Length,
    Offline,
    Revision,
    SaveEvery,
    Seed,
    SelfTokens,
)
from balcony_export.extras import require_train
from balcony_export.quantising.size import Size

if TYPE_CHECKING:
    from balcony_export.exits.store import Exits


def train(
    model: BaseModel,
    splits: Annotated[
        str,
        typer.Option(help="Layers of the base after which exits hang, such as 3,6,9. auto:3 spaces three by cost."),
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            help="Training data. Repeatable. UTF-8 text with a line <|endoftext|> after each document, or .jsonl (text "
            "or messages), both also .xz or .gz; .parquet; hub:owner/name:config:split; self: the base writes it."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write the exits to.")],
    preset: Annotated[
        str,
        typer.Option(help="What the other options start from: default, or paper (the Balcony paper's settings)."),
    ] = "default",
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Number of training steps. Default: 1000.", show_default=False)
    ] = None,
    heldout: Annotated[
        list[Path] | None,
        typer.Option(help="Text to calibrate and measure on. Repeatable. Default: a fiftieth of the documents."),
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Sequences in a step. Default: 16.")] = None,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Work through a step's sequences in this many pieces: takes less memory.")
    ] = 1,
    length: Length = None,
    lr: Annotated[
        float | None,
        typer.Option(callback=finite, help="Highest learning rate. Default: 5e-4 * sqrt(4096 / hidden size)."),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="The loss: kl (default), reverse-kl, js, topk-kl, or ce (cross-entropy to the text)."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(callback=finite, help="What the logits of both sides are divided by in the loss. Default: 1."),
    ] = None,
    width: Annotated[
        str | None,
        typer.Option(help="What stands before an exit's norm: layer (default), mlp (no KV cache), or norm (nothing)."),
    ] = None,
    exit_layers: Annotated[
        int | None,
        typer.Option(help="Decoder layers that an exit has. Default: 1; a deep, thin base is worth 2 or 3."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="The base layers that an exit starts as: last (default), or next (those after the split)."),
    ] = None,
    norm_start: Annotated[
        str | None,
        typer.Option(
            help="What an exit's norm starts as: final (the base's; default), or layer (the next layer's input norm)."
        ),
    ] = None,
    begin: Annotated[
        Path | None,
        typer.Option("--from", help="A folder of trained exits to go on from, for longer or on other text."),
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Train only the exits of these splits. The others stay as --from has them.")
    ] = None,
    loss_vocabulary: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Compare over this many of the head's rows and the base's 32 likeliest tokens. 0: over all. Default: "
            "8192 for a larger vocabulary and the loss kl.",
        ),
    ] = None,
    cache_states: Annotated[
        str,
        typer.Option(
            help="Keep what the base computes on disk, up to this size, such as 8GB: each row is run through it once. "
            "0: keep nothing. auto: up to half of the free disk, if rows are seen twice."
        ),
    ] = "auto",
    states: Annotated[
        Path | None, typer.Option(help="The folder to keep it in, for several runs. Default: state/base in -o.")
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(help="fp32, bf16, or auto: bf16 where the hardware multiplies it. The exits' weights stay fp32."),
    ] = "auto",
    device: Device = "auto",
    seed: Seed = 0,
    shard_base: Annotated[
        bool, typer.Option("--shard-base", help="Share a large base's layers between several processes (FSDP).")
    ] = False,
    self_tokens: SelfTokens = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="What the base is asked for --data self: JSON Lines with a field prompt, or any text, about whose "
            "passages it is asked. Then, and without it, the base makes up its own."
        ),
    ] = None,
    self_share: Annotated[
        float,
        typer.Option(
            min=0.01, max=1.0, help="How much of the training rows is the base's own, if --data names other text too."
        ),
    ] = 0.75,
    save_every: SaveEvery = 200,
    look_every: Annotated[
        int,
        typer.Option(
            min=0, help="Steps between measurements on held-out text. Each exit ends as at its best. 0: as at the end."
        ),
    ] = 100,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Train early exits for a frozen base, by self-distillation.

    After an interruption run the same command again: it goes on from the last saved state. On several GPUs:
    accelerate launch -m balcony_edge train …
    """
    require_train()
    from balcony_export.exits import placement, widths
    from balcony_export.model import architectures, download

    count = placement.automatic(splits)
    named = [] if count is not None else architectures.parse_splits(splits)
    chosen_width = widths.check_width(width or "layer")
    layers = widths.check_layers(1 if exit_layers is None else exit_layers, chosen_width)

    folder = download.resolve(model, revision, offline)
    blueprint = architectures.read(folder)
    chosen = named if count is None else placement.place(count, blueprint, chosen_width, layers)
    architectures.check_splits(chosen, blueprint.arch.layers)

    from balcony_export.model.transformers_model import quiet

    quiet()
    from balcony_export.model.base import choose_dtype
    from balcony_export.training.loop import TrainConfig
    from balcony_export.training.run import Job, train_exits

    job = Job(
        folder=folder,
        name=download.base_name(model, folder),
        texts=tuple(data),
        out=out,
        heldout=tuple(heldout or ()),
        device=device,
        save_every=save_every,
        shard_base=shard_base,
        begin=begin,
        self_tokens=self_tokens,
        self_share=self_share,
        prompts=prompts,
        states=states,
        states_bytes=_states_limit(cache_states, states or out),
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
        exit_layers=exit_layers,
        start=start,
        norm_start=norm_start,
        dtype=choose_dtype(dtype, device),
        loss_vocabulary=loss_vocabulary,
        keeps_states=False if cache_states == "0" else None if cache_states == "auto" else True,
        seed=seed,
        look_every=look_every,
    )
    trained = train_exits(job, config)
    if int(os.environ.get("RANK", "0")) == 0:
        report(trained, model, out)


def _states_limit(size: str, folder: Path) -> int:
    """How many bytes of ``folder`` the kept states may take. Raises ModelError for what is no size."""
    if size == "auto":
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        return shutil.disk_usage(there).free // 2
    return 0 if size == "0" else Size.parse(size).limit(0)


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
