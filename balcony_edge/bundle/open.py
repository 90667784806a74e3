"""Opens a bundle by whatever names it: a path, a Hub id, or nothing (the built-in demo)."""

from __future__ import annotations

from pathlib import Path

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import HUB_ID
from balcony_edge.errors import BundleError


def open_bundle(bundle: str | Path | Bundle | None, *, revision: str | None = None, offline: bool = False) -> Bundle:
    """Open and check a bundle.

    Args:
        bundle: a folder; a Hub id (owner/name), which is downloaded once; a Bundle, which is returned; or None for the
            built-in demo. A folder of that name goes before a Hub id.
        revision: branch, tag or commit, for a Hub id.
        offline: download nothing, for a Hub id.

    Raises:
        BundleError: there is no usable bundle.
        HubError: the Hub cannot be reached or has no such bundle.
    """
    if isinstance(bundle, Bundle):
        return bundle
    if bundle is not None and HUB_ID.fullmatch(str(bundle)) and not Path(bundle).exists():
        from balcony_edge.bundle.mistyped import mistyped_folder

        if revision is None and (wrong := mistyped_folder(str(bundle))) is not None:
            raise BundleError(*wrong)
        from balcony_edge.bundle.hub import fetch

        return Bundle(fetch(str(bundle), revision, offline))
    if revision is not None:
        raise BundleError(
            f"{bundle or 'the embedded demo'} has no revisions: it does not come from the Hugging Face Hub",
            "leave --revision out, or name a bundle on the Hub as owner/name",
        )
    return Bundle.demo() if bundle is None else Bundle(bundle)
