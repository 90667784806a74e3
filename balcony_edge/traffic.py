"""What a token costs at each depth, estimated from the weights that it reads.

Decoding one token reads every weight on its way once, and memory traffic is what an edge device waits for; the shares
below are counts of parameters. Norms, gates and the one row of the embedding are left out: together below a per cent.
"""

from __future__ import annotations

from dataclasses import dataclass

from balcony_edge.bundle import Architecture, Manifest


@dataclass(frozen=True)
class DepthCost:
    """Shares of a full-depth token: ``exit`` of the Balcony alone, ``token`` of a token that leaves at this depth."""

    exit: float
    token: float


def layer_parameters(arch: Architecture) -> int:
    """Weights of one decoder layer, which are also those of one Balcony."""
    queries, keys = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
    attention = 2 * arch.hidden * queries + 2 * arch.hidden * keys
    return attention + 3 * arch.hidden * arch.intermediate


def head_parameters(arch: Architecture) -> int:
    """Weights of the LM head."""
    return arch.hidden * arch.vocabulary


def depth_costs(manifest: Manifest) -> dict[int, DepthCost]:
    """The cost of every depth at which the bundle can emit a token, shallowest first; the last one is full depth."""
    arch = manifest.architecture
    layer, head = layer_parameters(arch), head_parameters(arch)
    full = arch.layers * layer + head
    costs = {
        graph.stop: DepthCost(exit=layer / full, token=((graph.stop + 1) * layer + head) / full)
        for graph in manifest.exits
    }
    return {**costs, arch.layers: DepthCost(exit=0.0, token=1.0)}
