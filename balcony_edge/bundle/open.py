"""Opens a bundle by whatever names it: a path, a short name, a Hub id, or nothing (the built-in demo)."""

from __future__ import annotations

from pathlib import Path

from balcony_edge.bundle import catalogue
from balcony_edge.bundle.completing import completed
from balcony_edge.bundle.folder import Bundle, ThinBundle, open_folder
from balcony_edge.bundle.manifest import HUB_ID
from balcony_edge.errors import BundleError
from balcony_edge.files.home import expand


def open_bundle(
    bundle: str | Path | Bundle | None,
    *,
    revision: str | None = None,
    offline: bool = False,
    base: str | Path | None = None,
) -> Bundle:
    """Open and check a bundle.

    Args:
        bundle: a folder; a name of the catalogue (see ``balcony-edge models``); a Hub id (owner/name), which is
            downloaded once; a Bundle, which is returned; or None for the built-in demo. A folder of that name goes
            before both. A thin bundle is completed once, in the cache.
        revision: branch, tag or commit, for a Hub id.
        offline: download nothing, for a Hub id and the base.
        base: your copy of a thin bundle's base: a model folder, a GGUF file or a Hub id. Completing needs the
            ``export`` extra; without ``base`` a thin bundle must have been completed before. A model of the catalogue
            has its own base, which is downloaded once.

    Raises:
        BundleError: there is no usable bundle.
        ModelError: ``base`` is not the bundle's base.
        HubError: the Hub cannot be reached or has no such bundle.
    """
    if isinstance(bundle, Bundle):
        return bundle
    found = find_bundle(bundle, revision, offline)
    if isinstance(found, ThinBundle):
        if base is None and bundle is not None and catalogue.find(bundle) is not None:
            base = bundle  # whoever completes it knows the name too, and where the base comes from
        return completed(found, str(bundle), None if base is None else str(base), offline)
    if base is not None:
        raise BundleError(f"{bundle or 'the embedded demo'} is no thin bundle: it needs no base", "leave --base out")
    return found


def find_bundle(bundle: str | Path | None, revision: str | None, offline: bool) -> Bundle | ThinBundle:
    """As ``open_bundle``, but a thin bundle stays as it is."""
    if bundle is not None and HUB_ID.fullmatch(str(bundle)) and not Path(bundle).exists():
        from balcony_edge.bundle.mistyped import mistyped_folder

        if revision is None and (wrong := mistyped_folder(str(bundle))) is not None:
            raise BundleError(*wrong)
        from balcony_edge.bundle.hub import fetch

        return open_folder(fetch(str(bundle), revision, offline))
    if revision is not None:
        raise BundleError(
            f"{bundle or 'the embedded demo'} has no revisions: it does not come from the Hugging Face Hub",
            "leave --revision out, or name a bundle on the Hub as owner/name",
        )
    if bundle is None or (str(bundle) == catalogue.STORIES and not Path(bundle).exists()):
        return Bundle.demo()
    if (model := catalogue.find(bundle)) is not None:
        return ThinBundle(catalogue.exits_of(model))
    if not expand(bundle).exists() and "/" not in str(bundle):
        raise BundleError(f"there is no bundle at {bundle}, and no model of that name", catalogue.suggestion(bundle))
    return open_folder(bundle)
