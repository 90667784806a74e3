"""A bundle from whatever names one: a path, a Hub id, or nothing (the embedded demo)."""

from __future__ import annotations

from pathlib import Path

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import HUB_ID
from balcony_edge.errors import BundleError


def open_bundle(bundle: str | Path | Bundle | None, *, revision: str | None = None, offline: bool = False) -> Bundle:
    """A bundle from a path, a Hub id (``owner/name``, fetched once), a bundle, or None for the demo.

    A path that exists goes before a Hub id. ``revision`` and ``offline`` (only what the caches hold) are for Hub
    ids. Raises BundleError or HubError.
    """
    if isinstance(bundle, Bundle):
        return bundle
    if bundle is not None and HUB_ID.fullmatch(str(bundle)) and not Path(bundle).exists():
        from balcony_edge.bundle.hub import fetch

        return Bundle(fetch(str(bundle), revision, offline))
    if revision is not None:
        raise BundleError(
            f"{bundle or 'the embedded demo'} has no revisions: it does not come from the Hugging Face Hub",
            "leave --revision out, or name a bundle on the Hub as owner/name",
        )
    return Bundle.demo() if bundle is None else Bundle(bundle)
