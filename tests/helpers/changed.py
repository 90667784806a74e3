"""The demo bundle with other files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from balcony_edge.bundle.folder import Bundle
from balcony_edge.bundle.manifest import file_entry


def with_files(tmp_path: Path, **files: str | bytes) -> Bundle:
    """The demo bundle with some files replaced or added, its manifest brought in line."""
    target = tmp_path / "bundle"
    shutil.copytree(Bundle.demo().path, target)
    manifest: dict[str, Any] = json.loads((target / "balcony.json").read_text())
    for name, content in files.items():
        path = target / name.replace("__", ".")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        manifest["files"][path.name] = file_entry(path).model_dump()
    (target / "balcony.json").write_text(json.dumps(manifest))
    return Bundle(target)
