"""``balcony-edge serve``: an OpenAI-compatible server over one bundle."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from balcony_edge.cli.options import AllowClocks, BundleName, Provider, Threads, finite
from balcony_edge.errors import BalconyError


def serve(
    bundle: BundleName = None,
    budget: Annotated[
        str,
        typer.Option(
            envvar="BALCONY_BUDGET",
            help="What a token may cost, as in balcony-edge run. Requests may bring their own.",
        ),
    ] = "full",
    min_agreement: Annotated[
        float,
        typer.Option(callback=finite, min=0.0, max=1.0, help="Least share of tokens that must be the full model's."),
    ] = 0.0,
    host: Annotated[str, typer.Option(help="Address to listen on. Default: this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8080,
    slots: Annotated[
        int, typer.Option(min=1, max=64, help="Replies that may run at once. They share the weights.")
    ] = 2,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait for a slot. More are refused (429).")] = 64,
    api_key: Annotated[
        str | None, typer.Option(envvar="BALCONY_API_KEY", help="What clients must send as bearer. Default: anything.")
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="Let web pages of this origin ask, such as https://example.org. Repeatable."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What clients call the model. Default: the base's name.")] = None,
    provider: Provider = "auto",
    threads: Threads = None,
    max_context: Annotated[
        int | None, typer.Option(min=2, help="Largest number of positions of a slot. Fewer need less memory.")
    ] = None,
    speculate: Annotated[
        bool | None, typer.Option("--speculate/--no-speculate", help="Let exits draft for the full model.")
    ] = None,
    allow_clocks: AllowClocks = False,
    access_log: Annotated[
        bool, typer.Option("--access-log/--no-access-log", help="A line of JSON for each request, on stderr.")
    ] = True,
) -> None:
    """Serve a model to any program that speaks OpenAI's HTTP interface, under a budget.

    Needs the extra [serve]: pip install 'balcony-edge[cpu,serve]'.
    """
    try:
        from balcony_edge.serve.server import serve as run
    except ImportError as error:
        raise BalconyError(
            f"the server's packages are not installed ({error})", "pip install 'balcony-edge[cpu,serve]'"
        ) from error
    from balcony_edge.control.budgets import parse_budget
    from balcony_edge.control.keepable import shortfall
    from balcony_edge.control.loaded import Loaded
    from balcony_edge.serve.service import Service
    from balcony_edge.serve.slots import Slots

    wanted = parse_budget(budget)
    loaded = Loaded(
        bundle,
        provider=provider,
        threads=threads,
        max_context=max_context,
        speculate=speculate,
        allow_clocks=allow_clocks,
    )
    taken = Slots(loaded, slots, wanted, min_agreement, queue)
    if (short := shortfall(taken.slots[0].session.governor)) is not None:
        print(f"balcony-edge: {short}", file=sys.stderr)
    service = Service(loaded, taken, name or loaded.bundle.manifest.base.model)
    run(service, host, port, api_key, origin or (), access_log)
