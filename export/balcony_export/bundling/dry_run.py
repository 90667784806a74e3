"""``balcony-edge export --dry-run``: the layers, exit costs and file sizes of an export, before any weight is read."""

from __future__ import annotations

from balcony_edge.bundle.manifest import Graph
from balcony_edge.measure.traffic import bits_per_weight, depth_costs
from balcony_export.bundling.writer import Plan
from balcony_export.graphs import interchange
from balcony_export.graphs.weights import BITS, FILE_NAME
from balcony_export.model.families import FAMILIES


def describe(plan: Plan) -> str:
    """A table of what the plan will write.

    A cost is the weight bytes that a token reads, as a share of those at full depth. Decoding is usually limited by
    memory bandwidth, and then time is proportional to these bytes.
    """
    written = plan.dry_run()
    graphs = written.graphs
    arch, formats = plan.blueprint.arch, plan.formats
    costs = depth_costs([item.entry for item in graphs])
    full = costs[arch.layers].token_bytes
    lines = [
        f"{plan.folder}: {FAMILIES[arch.family].title}, {arch.layers} layers × {arch.hidden}, "
        f"vocabulary {arch.vocabulary}, context {arch.context}",
        f"for {formats.provider}: base {formats.says_base}, exits {formats.exits}, "
        f"head and embedding {formats.says_head}, activations {formats.activations}, KV cache {formats.cache}",
        *_mixture(plan, [item.entry for item in graphs]),
        "",
        f"{'graph':24}{'layers':>8}{'file':>12}{'reads per token':>18}{'of a token':>12}",
    ]
    for item in graphs:
        entry = item.entry
        layers = f"{entry.start + 1}-{entry.stop}" if entry.kind == "segment" else ""
        if entry.kind == "exit":
            layers = str(max(1, entry.caches))
        lines.append(
            f"{entry.file:24}{layers:>8}{_size(item.graph_bytes):>12}"
            f"{_size(entry.weight_bytes):>18}{entry.weight_bytes / full:>11.1%}"
        )
    others = {interchange.GRAPH_NAME: written.full_bytes, FILE_NAME: written.weight_bytes}
    lines += [f"{name:24}{'':>8}{_size(size):>12}" for name, size in others.items()]
    lines += ["", "a token through"]
    lines += [f"  exit {depth:<4}{cost.token:>8.1%} of full depth" for depth, cost in costs.items() if cost.token < 1]
    lines.append(f"  all {arch.layers:<5}{1:>8.1%}, {_size(full)}")
    total = sum(others.values()) + sum(item.graph_bytes for item in graphs)
    lines.append(f"{_size(total)} on disk in all, beside the tokenizer")
    if plan.loss is not None:
        lines += ["", plan.loss]
    return "\n".join(lines)


def _mixture(plan: Plan, graphs: list[Graph]) -> list[str]:
    """What a weight of the layers takes, if they are quantised: matrices may be held in different ways."""
    if plan.formats.base not in BITS:
        return []
    return [f"layers: {bits_per_weight(graphs, plan.blueprint.arch):.2f} bits a weight, scales included"]


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
