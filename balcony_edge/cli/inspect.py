"""``balcony-edge inspect``: what is in a bundle."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from balcony_edge.bundle.folder import Bundle, ThinBundle
from balcony_edge.bundle.open import find_bundle
from balcony_edge.cli.options import BundleName
from balcony_edge.measure.traffic import bits_per_weight, depth_costs
from balcony_edge.system.terminal import table

BASIS = "estimated from weight traffic"
LACKING = ", thin: without the base's weights"


def inspect(
    bundle: BundleName = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, with the whole manifest.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit, for a bundle on the Hub.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Download nothing; use what is cached.")] = False,
) -> None:
    """Check a bundle and print what is in it: base, depths, their costs and quality, files."""
    opened = find_bundle(bundle, revision, offline)
    typer.echo(json.dumps(describe(opened), indent=1) if as_json else text(opened))


def describe(bundle: Bundle | ThinBundle) -> dict[str, Any]:
    """All that is known of a bundle: what follows from the manifest, and the manifest itself."""
    manifest = bundle.manifest
    full = manifest.architecture.layers
    depths = []
    for depth, cost in depth_costs(manifest.graphs).items():
        quality = manifest.quality.get(depth)
        depths.append(
            {
                "depth": depth,
                "full": depth == full,
                "token_bytes": cost.token_bytes,
                "exit_cost": cost.exit,
                "token_cost": cost.token,
                "agreement": quality.agreement if quality else None,
                "kl_nats": quality.kl_nats if quality else None,
            }
        )
    return {
        "path": str(bundle.path),
        "thin": isinstance(bundle, ThinBundle),
        "bytes": sum(entry.bytes for entry in bundle.files.values()),
        "digest": manifest.digest,
        "cost_basis": BASIS,
        "layer_bits": bits_per_weight(manifest.graphs, manifest.architecture)
        if manifest.formats.base in ("int8", "int4")
        else None,
        "depths": depths,
        "manifest": manifest.model_dump(mode="json"),
    }


def text(bundle: Bundle | ThinBundle) -> str:
    """The same as text with aligned columns."""
    about = describe(bundle)
    manifest = about["manifest"]
    facts = [
        ["bundle", about["path"]],
        ["base", manifest["base"]["model"]],
        ["", f"sha256 {manifest['base']['sha256']}"],
        ["architecture", _plain(manifest["architecture"])],
        ["splits", _plain(manifest["splits"])],
        ["formats", _plain(manifest["formats"])],
        *([["layers", f"{about['layer_bits']:.2f} bits a weight"]] if about["layer_bits"] else []),
        ["onnxruntime", f"{'.'.join(map(str, manifest['minimum_onnxruntime']))} or newer"],
        ["exactness", _plain(manifest["exactness"])],
        *([["draft stage", "guesses right " + _shares(manifest["guesses"])]] if manifest["guesses"] else []),
        ["generation", _plain(manifest["generation"])],
        ["size", f"{about['bytes'] / 1e6:.1f} MB in {len(bundle.files)} files{LACKING * about['thin']}"],
        ["digest", f"sha256 {about['digest']}"],
    ]
    depths = [["depth", "exit cost", "token cost", "agreement", "KL nats"]]
    for row in about["depths"]:
        depths.append(
            [
                f"{row['depth']} (full)" if row["full"] else str(row["depth"]),
                "–" if row["full"] else f"{row['exit_cost']:.1%}",
                f"{row['token_cost']:.1%}",
                "1 (itself)" if row["full"] else _number(row["agreement"]),
                "0" if row["full"] else _number(row["kl_nats"]),
            ]
        )
    graphs = {graph["file"]: graph for graph in manifest["graphs"]}
    files = [["file", "bytes", "graph", "layers", "caches", "gate"]]
    for name, entry in sorted(bundle.files.items()):
        graph = graphs.get(name)
        columns = ["", "", "", ""]
        if graph is not None:
            layers = f"{graph['start'] + 1}–{graph['stop']}" if graph["kind"] == "segment" else ""
            after = f"after {graph['stop']}" if graph["kind"] == "exit" else layers
            columns = [graph["kind"], after, str(graph["caches"]), "yes" if graph["gate"] else "no"]
        files.append([name, f"{entry.bytes:,}", *columns])
    note = f"Costs in % of a full-depth token, {BASIS}; agreement and KL with the full model on held-out text."
    return "\n\n".join([table(facts), f"{table(depths)}\n{note}", table(files)])


def _shares(values: list[float]) -> str:
    return ", ".join(f"{share:.2f}" for share in values)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _plain(value: Any) -> str:
    """A value of the manifest as text. Objects are written with whatever fields they have."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return " ".join(map(_plain, value)) or "none"
    if value is None:
        return "none"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
