"""The model card of a bundle (README.md): what it was made from, how good its exits are, and how to run it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from balcony_edge.bundle.card import front_matter, split_card
from balcony_edge.bundle.manifest import CARD_NAME, Manifest
from balcony_edge.measure.traffic import depth_costs

LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
# The beginnings of common licences with the Hub's names for them.
BEGINNINGS = (
    (re.compile(r"\s*Apache License\s+Version 2\.0\b"), "apache-2.0"),
    (re.compile(r"\s*(The )?MIT License\b", re.IGNORECASE), "mit"),
)
FIELD = re.compile(r"^(license|license_name|license_link):[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)


def licence(folder: Path) -> dict[str, str]:
    """The licence of a checkpoint under the Hub's keys, from its card or else its LICENSE file; empty if unknown."""
    path = folder / CARD_NAME
    if path.is_file():
        head, _ = split_card(path.read_text(encoding="utf-8", errors="replace"))
        said = {key: _scalar(value) for key, value in FIELD.findall(head)}
        if said.get("license"):
            return said
    for name in LICENCES:
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
            for beginning, known in BEGINNINGS:
                if beginning.match(text):
                    return {"license": known}
            # The form that the Hub asks for if it has no name for a licence.
            return {"license": "other", "license_name": "base-model-licence", "license_link": name}
    return {}


def render(manifest: Manifest, known_licence: Mapping[str, str], training: Mapping[str, Any] | None = None) -> str:
    """The text of the card. ``known_licence``: see ``licence``. ``training``: see Exits; None: exits are untrained."""
    base = manifest.base
    splits = ", ".join(map(str, manifest.splits))
    cut = "exits hang" if manifest.exits else "the base is cut"
    size = sum(entry.bytes for entry in manifest.files.values())
    name = known_licence.get("license_name") or known_licence.get("license")
    licensed = f"{name} (of the base)" if name else "unknown: see the base"
    return f"""{front_matter(manifest, known_licence)}
# {base.model} for balcony-edge

One frozen model at many depths: {cut} after layers {splits} of {manifest.architecture.layers}, and a
budget decides how deep each token goes. At full depth it is the base itself, with the weights below.

| | |
|---|---|
| base | {base.model} |
| digest of the base | `{base.sha256}` |
| weights | {_weights(manifest)}, {size / 1e6:.1f} MB in {len(manifest.files)} files |
| exactness | {manifest.exactness} |
| licence | {licensed} |

{_exits(manifest)}{_trained(training)}{_draft(manifest)}## Run it

```sh
pip install 'balcony-edge[cpu,hub]'   # or [gpu,hub]
balcony-edge pull OWNER/NAME -o bundle/
balcony-edge run bundle/ -p "Once upon a time" --budget 40tok/s
balcony-edge run bundle/ -p "Once upon a time" --budget full
```

`balcony-edge inspect bundle/` says what is in it.
"""


def _weights(manifest: Manifest) -> str:
    """The precisions of base, exits and head; one word if they are the same."""
    formats = manifest.formats
    if formats.base == formats.exits == formats.head:
        return formats.base
    if not manifest.exits and formats.base == formats.head:
        return formats.says_base
    return f"base {formats.says_base}, exits {formats.exits}, head {formats.says_head}"


def _exits(manifest: Manifest) -> str:
    """The section with the table of exits; empty for a bundle without exits."""
    if not manifest.exits:
        return ""
    rows = []
    for depth, cost in depth_costs(manifest.graphs).items():
        if depth == manifest.architecture.layers:
            continue
        quality = manifest.quality.get(depth)
        measured = f"{quality.agreement:.3f} | {quality.kl_nats:.3f}" if quality else "not measured | not measured"
        rows.append(f"| {depth} | {cost.token:.0%} | {cost.exit:.1%} | {measured} |\n")
    return (
        "## Exits\n\n"
        "| after layer | cost of a token | of which the exit | agreement | KL, nats |\n|---|---|---|---|---|\n"
        f"{''.join(rows)}\n"
        "Costs in % of a full-depth token, estimated from weight traffic. Agreement: how often the exit's likeliest\n"
        "token is the full model's; KL: from the full model to the exit. Both measured in training on held-out text,\n"
        "before the weights were quantised.\n\n"
    )


def _draft(manifest: Manifest) -> str:
    """A paragraph on the draft stage; empty without one."""
    if not manifest.guesses:
        return ""
    shares = ", ".join(f"{share:.3f}" for share in manifest.guesses)
    return (
        "A draft stage, one more decoder layer, guesses tokens that a deep pass then checks. Its first, second, …\n"
        f"guess in a row is right {shares} of the time on held-out text, where those before it are.\n\n"
    )


def _trained(training: Mapping[str, Any] | None) -> str:
    """A paragraph on how the exits were trained; empty if they were not."""
    if not training:
        return ""
    words = {"layer": "a decoder layer and a norm", "mlp": "an MLP and a norm", "norm": "a norm"}
    width = words[training.get("width", "layer")]
    if (layers := training.get("exit_layers", 1)) > 1:
        width = f"{layers} decoder layers and a norm"
    loss = training.get("loss", "kl")
    aim = "the text's next token (cross-entropy)" if loss == "ce" else f"the frozen base's distribution (loss {loss})"
    size = f"{training['steps']:,} steps of {training['rows']} x {training['length']} tokens"
    return f"Each exit is {width}, trained towards {aim} for {size}.\n\n"


def _scalar(value: str) -> str:
    """The text of a YAML scalar, without quotes."""
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value.strip('"')
    return value.strip("'")
