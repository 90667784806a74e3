"""Sharing bundles: sends them to, and gets them from, a model repository of the Hugging Face Hub or a folder.

Both kinds of home store the same files: those that the manifest lists, the manifest, and the model card. Nothing else
is sent or taken, and what was taken is checked before it gets its final name. A thin bundle is shared like a whole one,
and may be completed as it comes.
"""

from __future__ import annotations

import os
import shutil
from glob import escape
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from balcony_edge.bundle import catalogue
from balcony_edge.bundle.atomic_folder import whole_folder
from balcony_edge.bundle.card import front_matter, read_card, split_card
from balcony_edge.bundle.completing import find_base, finish
from balcony_edge.bundle.folder import Bundle, ThinBundle, open_folder
from balcony_edge.bundle.hub_errors import LOG_IN, explain, reachable, require_client
from balcony_edge.bundle.manifest import (
    CARD_NAME,
    CARRIED_NAME,
    HUB_ID,
    MANIFEST_NAME,
    WEIGHTS_NAME,
    Manifest,
    read_manifest,
)
from balcony_edge.errors import BundleError, HubError
from balcony_edge.files.cache import needed_cache_folder
from balcony_edge.files.home import expand
from balcony_edge.files.reading import leads_out

Parts = dict[str, Path | bytes]


class Home(Protocol):
    """A place where a bundle is shared. Its methods raise HubError."""

    def send(self, parts: Parts, private: bool) -> str:
        """Store a bundle's files (by name: a path or the content); returns the address at which people find it."""
        ...

    def manifest(self, revision: str | None, offline: bool = False) -> tuple[Manifest, str | None]:
        """The manifest in a revision, and the revision that stands for just this state, if the place has any."""
        ...

    def take(self, into: Path, revision: str | None) -> None:
        """Put a bundle's files into an empty folder, unchecked."""
        ...


def home(repo: str) -> Home:
    """The home that a user names: ``owner/name`` on the Hub, or a folder.

    A folder is a name that exists, ./folder, or file:///folder. Raises HubError for anything else.
    """
    if repo.startswith("file:"):
        address = urlsplit(repo)
        if address.netloc not in ("", "localhost"):
            raise HubError(f"{repo} names a folder of another machine", "write a local folder as file:///folder")
        return FolderHome(Path(url2pathname(address.path)))
    if repo.startswith((".", "/", "~")) or Path(repo).is_dir():
        return FolderHome(expand(repo))
    if HUB_ID.fullmatch(repo):
        return HubHome(repo)
    raise HubError(f"{repo!r} is neither a Hub repository nor a folder", "give owner/name, or a folder as ./folder")


def push(bundle: Bundle | ThinBundle, repo: str, private: bool = False) -> str:
    """Share a bundle; returns its address. ``private``: if this creates a repository on the Hub, make it private.

    Raises HubError.
    """
    return home(repo).send(_parts(bundle), private)


def pull(repo: str, out: Path, revision: str | None = None, base: str | None = None) -> Manifest:
    """Get a shared bundle as the folder ``out``, whole and checked or not at all; returns its manifest.

    A bundle at ``out`` is replaced. ``repo``: see ``home``; a name of the catalogue is completed with its own base.
    ``revision``: branch, tag or commit, for the Hub. ``base``: the user's copy of a
    thin bundle's base, to complete it with (see completing.find_base); None: a thin bundle stays thin.

    Raises:
        HubError: the bundle cannot be fetched.
        ModelError: ``base`` is not the bundle's base; nothing was written.
        BundleError: it is broken, or ``out`` cannot be written.
    """
    model = catalogue.find(repo)
    source = home(repo) if model is None else FolderHome(catalogue.exits_of(model))
    if base is None and model is not None:
        base = model.name
    if base is not None:
        manifest, revision = source.manifest(revision)
        write = find_base(manifest, base) if manifest.recipe else None
    with whole_folder(out) as work:
        source.take(work, revision)
        try:
            came = open_folder(work)
        except BundleError as error:
            what = error.message.replace(str(work), repo)
            raise BundleError(f"the bundle that came is broken: {what}", "pull it again, or push it again") from error
        if base is not None:
            if write is None or isinstance(came, Bundle):
                raise BundleError(f"{repo} is no thin bundle: it needs no base", "leave --base out")
            finish(work, manifest, write)
    return came.manifest


def fetch(repo: str, revision: str | None = None, offline: bool = False) -> Path:
    """The local folder of a bundle on the Hub; what the Hub's cache lacks is downloaded.

    The Hub's cache stores a snapshot as symbolic links out of its folder, which bundles refuse and ONNX Runtime may
    refuse too. So the bundle gets a folder of its own, of hard links, which take no space.

    Raises HubError or BundleError.
    """
    source = HubHome(repo)
    cache = needed_cache_folder(repo)
    manifest, commit = source.manifest(revision, offline)
    out = cache / "bundles" / repo.replace("/", "--") / commit
    if (out / MANIFEST_NAME).is_file():
        return out
    snapshot = source.download(manifest, commit, offline=offline)
    with whole_folder(out) as work:
        for name in _names(manifest):
            if (snapshot / name).is_file():
                _link((snapshot / name).resolve(), work / name)
    return out


class FolderHome:
    """A folder that holds one bundle, on a network share or a disk that is carried around."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def send(self, parts: Parts, private: bool) -> str:
        """Copy the files to the folder; a bundle that is there is replaced. ``private`` means nothing here."""
        with whole_folder(self.folder) as work:
            for name, part in parts.items():
                self._write(part, work / name)
        return str(self.folder)

    def take(self, into: Path, revision: str | None) -> None:
        """Copy the files from the folder. Raises HubError for a revision: a folder has none."""
        self._refuse(revision)
        bundle = open_folder(self.folder)  # checked first: a name may be a link that leads anywhere
        for name in bundle.names:
            path = bundle.file(name)
            if name != CARD_NAME or (path.is_file() and not leads_out(path, bundle.path)):
                self._write(path, into / name)

    def manifest(self, revision: str | None, offline: bool = False) -> tuple[Manifest, None]:
        """The manifest in the folder. Raises HubError for a revision."""
        self._refuse(revision)
        return read_manifest(self.folder), None

    def _refuse(self, revision: str | None) -> None:
        if revision is not None:
            raise HubError(f"{self.folder} is a folder and has no revisions", "leave --revision out")

    def _write(self, part: Path | bytes, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(part, bytes):
                path.write_bytes(part)
            else:
                shutil.copyfile(part, path)
        except OSError as error:
            raise HubError(f"cannot copy to {path.parent}: {error}", "check the space and the rights there") from error


class HubHome:
    """A model repository of the Hugging Face Hub."""

    def __init__(self, repo: str) -> None:
        require_client()
        self.repo = repo

    def send(self, parts: Parts, private: bool) -> str:
        """Upload all files in one commit; the repository is created if it does not exist.

        What an earlier push left and this bundle lacks is deleted: graphs, and a whole or thin bundle's weights. Other
        files in the repository stay.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

        if get_token() is None:
            raise HubError(f"cannot push to {self.repo}: the Hub needs a login for that", LOG_IN)
        api = HfApi()
        try:
            # None leaves the choice to the owner's settings on the Hub, which are public as a rule.
            url = api.create_repo(self.repo, private=True if private else None, exist_ok=True)
            stale = [name for name in api.list_repo_files(self.repo) if _is_stale(name, parts)]
            api.create_commit(
                self.repo,
                [
                    *(CommitOperationAdd(name, part) for name, part in parts.items()),
                    *(CommitOperationDelete(name) for name in stale),
                ],
                commit_message="Upload a balcony-edge bundle",
            )
        except Exception as error:  # the client's errors share no base
            reason, hint = explain(error, self.repo)
            raise HubError(f"cannot push to {self.repo} on the Hugging Face Hub: {reason}", hint) from error
        return str(url)

    def take(self, into: Path, revision: str | None) -> None:
        """Download the files into the folder, all from one commit."""
        manifest, commit = self.manifest(revision)
        self.download(manifest, commit, into)
        # The client leaves notes about the download there.
        shutil.rmtree(into / ".cache", ignore_errors=True)

    def manifest(self, revision: str | None, offline: bool = False) -> tuple[Manifest, str]:
        """The manifest in a revision, and the commit that the revision stands for. ``offline``: only from the cache.

        Raises HubError or BundleError.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        offline = offline or not reachable()
        try:
            path = Path(hf_hub_download(self.repo, MANIFEST_NAME, revision=revision, local_files_only=offline))
        except Exception as error:  # the client's errors share no base
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                raise HubError(
                    f"{self.repo} on the Hugging Face Hub holds no bundle: it has no {MANIFEST_NAME}",
                    f"if it is a base model, make a bundle of it: balcony-edge export {self.repo} -o bundle/",
                ) from error
            raise self._not_fetched(error) from error
        # The cache stores every snapshot in a folder named after its commit.
        return read_manifest(path.parent), path.parent.name

    def download(self, manifest: Manifest, commit: str, into: Path | None = None, offline: bool = False) -> Path:
        """Download the bundle's files of a commit to ``into``, or to the Hub's cache; returns the folder.

        Raises HubError.
        """
        from huggingface_hub import snapshot_download

        try:
            return Path(
                snapshot_download(
                    self.repo,
                    revision=commit,
                    local_dir=into,
                    local_files_only=offline,
                    allow_patterns=[escape(name) for name in _names(manifest)],
                )
            )
        except Exception as error:  # the client's errors share no base
            raise self._not_fetched(error) from error

    def _not_fetched(self, error: Exception) -> HubError:
        reason, hint = explain(error, self.repo)
        return HubError(f"cannot get {self.repo} from the Hugging Face Hub: {reason}", hint)


def _names(manifest: Manifest) -> list[str]:
    """The names that a shared bundle's files may have, whether it is whole or thin. The manifest is last."""
    carried = [] if manifest.recipe is None else [CARRIED_NAME]
    return [*sorted({*manifest.files, *carried, CARD_NAME}), MANIFEST_NAME]


def _is_stale(name: str, parts: Parts) -> bool:
    """Whether a file in a repository is another bundle's than the one of ``parts``."""
    return name not in parts and (name.endswith(".onnx") or name in (WEIGHTS_NAME, CARRIED_NAME))


def _parts(bundle: Bundle | ThinBundle) -> Parts:
    """The files to send, by name. A card that is missing or has no front matter gets the front matter the Hub needs."""
    parts: Parts = {name: bundle.file(name) for name in bundle.names}
    # The other files were checked when the bundle was opened.
    if leads_out(bundle.file(MANIFEST_NAME), bundle.path):
        raise BundleError(f"{bundle.file(MANIFEST_NAME)} is a link out of the bundle", "put the file itself there")
    text = read_card(bundle.path) or f"# {bundle.manifest.base.model}\n"
    front = "" if split_card(text)[0] else f"{front_matter(bundle.manifest)}\n"
    parts[CARD_NAME] = f"{front}{text}".encode()
    return parts


def _link(source: Path, target: Path) -> None:
    """Make a hard link, or a copy if the two caches are on different disks."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
