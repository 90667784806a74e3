"""Options that several of the workstation's commands have in common."""

from __future__ import annotations

from typing import Annotated

import typer

BaseModel = Annotated[
    str,
    typer.Argument(
        help="The base: a model folder, a .gguf file, a Hub id, or a name that models lists. Never changed."
    ),
]
Length = Annotated[
    int | None,
    typer.Option(min=8, help="Tokens in a sequence. Default: 512, or the model's context if shorter."),
]
Device = Annotated[str, typer.Option(help="auto (the GPU if there is one), cpu, cuda, cuda:1, …")]
Seed = Annotated[int, typer.Option(min=0, help="Seed: fixes the batches, and the samples of --data self.")]
SelfTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens to write for --data self. Default: as many as the run uses, 2 million at most."),
]
SaveEvery = Annotated[
    int, typer.Option(min=1, help="Steps between two saved states, from which an interrupted run goes on.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub model.")]
Offline = Annotated[bool, typer.Option("--offline", help="Download nothing; use what the Hub cache holds.")]
