"""``balcony-edge train-draft``: a stage that guesses tokens for the full model, for faster lossless decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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


def train_draft(
    model: BaseModel,
    exits: Annotated[
        Path,
        typer.Option(
            help="A folder of trained exits of this base. The stage is added to a copy; one that is there goes on."
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option(help="Training data, as for train. Repeatable. self: the base writes it."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write the exits and the stage to.")],
    max_steps: Annotated[int, typer.Option(min=1, help="Number of training steps.")] = 1000,
    heldout: Annotated[
        list[Path] | None,
        typer.Option(help="Text to measure on. Repeatable. Default: a fiftieth of the documents."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Sequences in a step.")] = 16,
    length: Length = None,
    lr: Annotated[
        float | None,
        typer.Option(callback=finite, help="Highest learning rate. Default: twice the one of train."),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(help="fp32, bf16, or auto: bf16 where the hardware multiplies it. The stage's weights stay fp32."),
    ] = "auto",
    device: Device = "auto",
    seed: Seed = 0,
    self_tokens: SelfTokens = None,
    prompts: Annotated[Path | None, typer.Option(help="What the base is asked for --data self, as for train.")] = None,
    save_every: SaveEvery = 200,
    look_every: Annotated[
        int, typer.Option(min=0, help="Steps between measurements on held-out text. 0: at the end alone.")
    ] = 100,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Train a draft stage for a frozen base: it guesses tokens, and the full model checks several at once.

    It costs a layer a guess, and no token is shown that the full model would not have given. Bundles that are exported
    with it decode lossless faster, on every kind of text. After an interruption run the same command again.
    """
    require_train()
    from balcony_export.exits import store
    from balcony_export.model import architectures, download

    folder = download.resolve(model, revision, offline)
    blueprint = architectures.read(folder)
    splits = store.load(exits).splits

    from balcony_export.model.transformers_model import quiet

    quiet()
    from balcony_export.model.base import choose_dtype
    from balcony_export.training.draft import train_draft as train
    from balcony_export.training.loop import TrainConfig, default_learning_rate
    from balcony_export.training.run import Job

    job = Job(
        folder=folder,
        name=download.base_name(model, folder),
        texts=tuple(data),
        out=out,
        heldout=tuple(heldout or ()),
        device=device,
        save_every=save_every,
        begin=exits,
        self_tokens=self_tokens,
        prompts=prompts,
    )
    config = TrainConfig.for_base(
        blueprint.arch,
        splits,
        steps=max_steps,
        rows=rows,
        length=length,
        learning_rate=2 * default_learning_rate(blueprint.arch.hidden) if lr is None else lr,
        dtype=choose_dtype(dtype, device),
        seed=seed,
        look_every=look_every,
    )
    trained = train(job, config)
    quality: Any = trained.quality["draft"]
    places = ", ".join(f"{share:.3f}" for share in quality["accepted"])
    typer.echo(
        f"right on {quality['heldout_tokens']:,} held-out tokens: {places} (first, second and third guess in a row)",
        err=True,
    )
    typer.echo(f"wrote {out}; next: balcony-edge export {model} --exits {out} -o BUNDLE", err=True)
