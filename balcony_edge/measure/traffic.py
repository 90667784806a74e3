"""What a token costs at each depth, estimated from the weights that it reads.

Decoding one token reads every weight on its way once, and memory traffic is what an edge device waits for: the shares
below are of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from balcony_edge.bundle.manifest import Graph


@dataclass(frozen=True)
class DepthCost:
    """A token that leaves at a depth: bytes it reads, and shares of a full-depth token's.

    ``exit`` is the share of the Balcony alone, ``token`` that of all on the way, the head included.
    """

    token_bytes: int
    exit: float
    token: float


def depth_costs(graphs: Sequence[Graph]) -> dict[int, DepthCost]:
    """The cost of every depth at which the graphs can emit a token, shallowest first; the last one is full depth."""
    head = sum(graph.weight_bytes for graph in graphs if graph.kind == "head")
    trunk = {graph.stop: graph.weight_bytes for graph in graphs if graph.kind == "segment"}
    full = sum(trunk.values()) + head
    costs = {}
    for graph in sorted(graphs, key=lambda graph: graph.stop):
        if graph.kind == "exit":
            read = sum(size for stop, size in trunk.items() if stop <= graph.stop) + graph.weight_bytes + head
            costs[graph.stop] = DepthCost(read, exit=graph.weight_bytes / full, token=read / full)
    return {**costs, max(trunk): DepthCost(full, exit=0.0, token=1.0)}
