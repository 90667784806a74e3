"""What a token costs at each depth, estimated from the bytes of weights that it reads.

Decoding a token reads each weight of its depth once, and reading memory is what an edge device spends its time on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from balcony_edge.bundle.manifest import Architecture, Graph


@dataclass(frozen=True)
class DepthCost:
    """The cost of a token that is emitted at a depth.

    ``token_bytes``: bytes of weights that it reads, including the head's. ``token``: these as a share of the bytes of a
    full-depth token. ``exit``: the share that the exit's own layer takes.
    """

    token_bytes: int
    exit: float
    token: float


def bits_per_weight(graphs: Sequence[Graph], arch: Architecture) -> float:
    """How many bits a weight of the base's layers takes on average, scales and zero points included."""
    heads = arch.head_dim * (2 * arch.heads + 2 * arch.kv_heads)
    weights = arch.layers * arch.hidden * (heads + 3 * arch.intermediate)
    return 8 * sum(graph.weight_bytes for graph in graphs if graph.kind == "segment") / weights


def depth_costs(graphs: Sequence[Graph]) -> dict[int, DepthCost]:
    """Depth → cost, for every depth at which a bundle can emit a token, ascending; the last one is full depth."""
    head = sum(graph.weight_bytes for graph in graphs if graph.kind == "head")
    trunk = {graph.stop: graph.weight_bytes for graph in graphs if graph.kind == "segment"}
    full = sum(trunk.values()) + head
    costs = {}
    for graph in sorted(graphs, key=lambda graph: graph.stop):
        if graph.kind == "exit":
            read = sum(size for stop, size in trunk.items() if stop <= graph.stop) + graph.weight_bytes + head
            costs[graph.stop] = DepthCost(read, exit=graph.weight_bytes / full, token=read / full)
    return {**costs, max(trunk): DepthCost(full, exit=0.0, token=1.0)}
