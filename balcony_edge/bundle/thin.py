"""What a thin bundle says of itself: the error that names the base it needs, and the paragraph in its card."""

from __future__ import annotations

import re

from balcony_edge.bundle.manifest import HUB_ID, Manifest
from balcony_edge.errors import BundleError

# One GGUF file of a repository of the Hub: owner/name:file.gguf.
HUB_FILE = re.compile(rf"{HUB_ID.pattern}:[\w][\w./-]*\.gguf", re.ASCII)
# All behind this line is the thin bundle's own, and goes when it is completed.
CARD_MARK = "\n<!-- of the thin bundle -->\n"


def base_to_name(manifest: Manifest) -> str:
    """The base as a command can name it: its Hub id, or MODEL. Other names are only words, perhaps a stranger's."""
    model = manifest.base.model
    return model if HUB_ID.fullmatch(model) or HUB_FILE.fullmatch(model) else "MODEL"


def missing_base(name: str, manifest: Manifest) -> BundleError:
    """The error for a thin bundle that is used as it is. ``name``: what the user calls it, a path or a Hub id."""
    base = base_to_name(manifest)
    own = "" if base != "MODEL" else "; MODEL is your copy of the base, a folder, a .gguf file or a Hub id"
    return BundleError(
        f"{name} is a thin bundle: it comes without the weights of its base, {manifest.base.model} "
        f"(sha256 {manifest.base.sha256})",
        f"complete it: balcony-edge pull {name} --base {base} -o bundle/ (or run it with --base {base}){own}",
    )


def add_note(card: str, manifest: Manifest) -> str:
    """The card of a thin bundle, from that of the whole one."""
    return f"""{card}{CARD_MARK}
## The base's weights are not here

This is a thin bundle. You need a copy of the base, {manifest.base.model}, with the digest above:

```sh
pip install 'balcony-edge[cpu,export]'
balcony-edge pull OWNER/NAME --base {base_to_name(manifest)} -o bundle/
```

The result is checked to be, byte for byte, the bundle that this one was made from.
"""


def without_note(card: str) -> str:
    """The card without what ``add_note`` added."""
    return card.partition(CARD_MARK)[0]
