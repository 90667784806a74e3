"""The bundle's folder: ``balcony.json``, ONNX graphs that share one weights file, and a tokenizer."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from balcony_edge.bundle.external_data import check_external_data
from balcony_edge.bundle.manifest import CARD_NAME, MANIFEST_NAME, FileEntry, file_entry, read_manifest
from balcony_edge.errors import BundleError
from balcony_edge.files.home import expand


class Bundle:
    """A bundle folder that was checked. ``path`` is the folder, ``manifest`` the content of its balcony.json.

    ``Bundle(path)`` checks the manifest, the size and digest of every file that it lists, and that no graph takes
    weights from elsewhere. Files that the manifest does not list are never read. ``Bundle.demo()`` is the bundle that
    comes with the package.

    Raises:
        BundleError: which names the first file that is wrong.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = expand(path)
        self.manifest = read_manifest(self.path)
        root = self.path.resolve()
        for name, entry in self.manifest.files.items():
            if name != CARD_NAME:
                self._verify(root, name, entry)
        sizes = {name: entry.bytes for name, entry in self.manifest.files.items()}
        for name in sizes:
            # All of them, also those that only other programs load (full.onnx, for onnxruntime-genai).
            if name.endswith(".onnx"):
                check_external_data(self.path / name, name, sizes)

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

    def file(self, name: str) -> Path:
        """The path of the manifest, the card, or a file that the manifest lists. Raises BundleError for other names."""
        if name not in (MANIFEST_NAME, CARD_NAME) and name not in self.manifest.files:
            raise BundleError(f"the bundle {self.path} has no {name} in its manifest", "export the bundle again")
        return self.path / name

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths at which a token can be emitted, in base layers, ascending. The last one is the full model."""
        return (*(graph.stop for graph in self.manifest.exits), self.manifest.architecture.layers)

    def _verify(self, root: Path, name: str, entry: FileEntry) -> None:
        path = self.path / name
        again = "copy the bundle again, or export it again"
        try:
            # A symbolic link could lead out of the bundle even if the name does not.
            if not path.resolve().is_relative_to(root):
                raise BundleError(f"{path} leads outside the bundle", again)
            if not path.is_file():
                raise BundleError(f"the bundle {self.path} lacks its file {name}", again)
            size = path.stat().st_size
            if size != entry.bytes:
                raise BundleError(f"{path} is truncated or changed: {size} bytes, expected {entry.bytes}", again)
            if file_entry(path) != entry:
                raise BundleError(f"{path} was changed: its sha256 is not the manifest's", again)
        except (OSError, RuntimeError) as error:  # links in a circle are a RuntimeError before Python 3.13
            raise BundleError(f"cannot read {path}: {error}", again) from error
