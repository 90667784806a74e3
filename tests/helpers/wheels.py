"""Small wheels, and a catalogue entry for what is in one."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from balcony_edge.bundle.catalogue import CatalogueModel, HubSource, PackageSource

CONTENT = b"GGUF" + bytes(range(256)) * 40
FILE = "tiny.Q4_1.gguf"


def make_wheel(folder: Path, content: bytes = CONTENT, name: str = "tiny_weights", version: str = "1.0") -> Path:
    """A wheel with one file, ``NAME/tiny.Q4_1.gguf``."""
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}/{FILE}", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def tiny_entry(content: bytes = CONTENT, hub: HubSource | None = None) -> CatalogueModel:
    """The entry of the model in ``make_wheel``'s wheel."""
    return CatalogueModel(
        name="tiny",
        title="Nothing",
        licence="CC0-1.0",
        home="https://example.org",
        file=FILE,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        package=PackageSource(requirement="tiny-weights==1.0", member=f"tiny_weights/{FILE}", bytes=2000),
        hub=hub,
    )
