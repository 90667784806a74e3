"""The bundle's folder: ``balcony.json``, ONNX graphs that share one weights file, and a tokenizer.

A *thin* bundle is the same folder with the same manifest, but without the weights file. In its place lies
``carried.bin``: those weights that do not come from the base. With the base it becomes whole (see completing.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from balcony_edge.bundle.external_data import check_external_data
from balcony_edge.bundle.manifest import (
    CARD_NAME,
    CARRIED_NAME,
    MANIFEST_NAME,
    WEIGHTS_NAME,
    FileEntry,
    Manifest,
    Recipe,
    file_entry,
    read_manifest,
)
from balcony_edge.bundle.thin import missing_base
from balcony_edge.errors import BundleError
from balcony_edge.files.home import expand

AGAIN = "copy the bundle again, or export it again"


class _Folder:
    """What whole and thin bundles have in common: a manifest, and files that were checked."""

    path: Path
    """The folder."""
    manifest: Manifest
    """The content of its balcony.json."""
    files: Mapping[str, FileEntry]
    """The files that must be there, but for manifest and card."""

    def _check(self) -> None:
        """Check size and digest of every file, and that no graph takes weights from elsewhere. Raises BundleError."""
        root = self.path.resolve()
        for name, entry in self.files.items():
            if name != CARD_NAME:
                self._verify(root, name, entry)
        sizes = {name: entry.bytes for name, entry in self.manifest.files.items()}
        for name in sizes:
            # All of them, also those that only other programs load (full.onnx, for onnxruntime-genai).
            if name.endswith(".onnx"):
                check_external_data(self.path / name, name, sizes)

    def file(self, name: str) -> Path:
        """The path of the manifest, the card, or another of the bundle's files. Raises BundleError for other names."""
        if name not in (MANIFEST_NAME, CARD_NAME) and name not in self.files:
            raise BundleError(f"the bundle {self.path} has no {name} in its manifest", "export the bundle again")
        return self.path / name

    @property
    def names(self) -> list[str]:
        """The names of all files. The card may be missing. The manifest is last: it makes a folder a bundle."""
        return [*sorted({*self.files, CARD_NAME}), MANIFEST_NAME]

    def _verify(self, root: Path, name: str, entry: FileEntry) -> None:
        path = self.path / name
        try:
            # A symbolic link could lead out of the bundle even if the name does not.
            if not path.resolve().is_relative_to(root):
                raise BundleError(f"{path} leads outside the bundle", AGAIN)
            if not path.is_file():
                raise BundleError(f"the bundle {self.path} lacks its file {name}", AGAIN)
            size = path.stat().st_size
            if size != entry.bytes:
                raise BundleError(f"{path} is truncated or changed: {size} bytes, expected {entry.bytes}", AGAIN)
            if file_entry(path) != entry:
                raise BundleError(f"{path} was changed: its sha256 is not the manifest's", AGAIN)
        except (OSError, RuntimeError) as error:  # links in a circle are a RuntimeError before Python 3.13
            raise BundleError(f"cannot read {path}: {error}", AGAIN) from error


class Bundle(_Folder):
    """A bundle folder that was checked. ``path`` is the folder, ``manifest`` the content of its balcony.json.

    ``Bundle(path)`` checks the manifest, the size and digest of every file that it lists, and that no graph takes
    weights from elsewhere. Files that the manifest does not list are never read. ``Bundle.demo()`` is the bundle that
    comes with the package.

    Raises:
        BundleError: which names the first file that is wrong. A thin bundle is refused with the command that
            completes it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = expand(path)
        self.manifest = read_manifest(self.path)
        self.files = self.manifest.files
        if is_thin(self.path, self.manifest):
            raise missing_base(str(path), self.manifest)
        self._check()

    @classmethod
    def demo(cls) -> Bundle:
        """The demo bundle that comes with the package: a small model that tells stories. Raises BundleError."""
        path = Path(str(resources.files("balcony_edge"))) / "demo"
        if not (path / MANIFEST_NAME).exists():
            raise BundleError(
                "this installation of balcony-edge has no demo bundle",
                "name a bundle, or make one: balcony-edge export MODEL -o bundle/",
            )
        return cls(path)

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths at which a token can be emitted, in base layers, ascending. The last one is the full model."""
        return (*(graph.stop for graph in self.manifest.exits), self.manifest.architecture.layers)


class ThinBundle(_Folder):
    """A thin bundle's folder that was checked, as ``Bundle`` is. ``recipe``: how it becomes whole.

    Raises BundleError for a folder that is no thin bundle, or has a file that is wrong.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = expand(path)
        self.manifest = read_manifest(self.path)
        if self.manifest.recipe is None:
            raise BundleError(f"{self.path} is no thin bundle: its manifest has no recipe", AGAIN)
        self.recipe: Recipe = self.manifest.recipe
        self.files = {name: entry for name, entry in self.manifest.files.items() if name != WEIGHTS_NAME}
        self.files |= {CARRIED_NAME: self.recipe.carried}
        self._check()


def is_thin(folder: Path, manifest: Manifest) -> bool:
    """Whether a bundle's folder is a thin one: it has carried weights, but no weights file."""
    return manifest.recipe is not None and (folder / CARRIED_NAME).is_file() and not (folder / WEIGHTS_NAME).exists()


def open_folder(path: str | Path) -> Bundle | ThinBundle:
    """A bundle's folder, whole or thin, checked. Raises BundleError."""
    folder = expand(path)
    return ThinBundle(folder) if is_thin(folder, read_manifest(folder)) else Bundle(path)
