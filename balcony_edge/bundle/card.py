"""The front matter of a model card: the YAML block that the Hugging Face Hub reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from balcony_edge.bundle.manifest import CARD_NAME, HUB_ID, Manifest
from balcony_edge.errors import BundleError
from balcony_edge.files.reading import Reader, leads_out

MARK = "---\n"
READER = Reader("the model card", BundleError, "replace it by a text file, or delete it", 4 << 20, pipes=False)
TAGS = ("balcony-edge", "early-exit", "adaptive-computation", "onnx")


def front_matter(manifest: Manifest, licence: Mapping[str, str] | None = None) -> str:
    """The YAML block for a bundle. ``licence``: the Hub's keys license, license_name, license_link, as far as known."""
    fields: dict[str, str] = {"library_name": "balcony-edge", "pipeline_tag": "text-generation"}
    repository = manifest.base.model.partition(":")[0]  # of one file: owner/name:file.gguf
    if HUB_ID.fullmatch(repository):
        fields["base_model"] = repository
    fields |= licence or {}
    # Every JSON string is also a YAML string.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in fields.items()]
    return "".join([MARK, *lines, "tags:\n", *(f"- {tag}\n" for tag in TAGS), MARK])


def read_card(folder: Path) -> str:
    """The text of the card in a bundle's folder; empty if there is none.

    Raises BundleError for a card that is no text, or a link out of the folder: what it leads to would be published.
    """
    path = folder / CARD_NAME
    if not os.path.lexists(path):
        return ""
    if leads_out(path, folder):
        raise READER.failed(path, "it is a link that leads out of the bundle")
    return READER.text(path)


def split_card(text: str) -> tuple[str, str]:
    """Split a card's text into its front matter (without the marks; empty if there is none) and the rest."""
    text = text.replace("\r\n", "\n")
    if text.startswith(MARK):
        head, mark, rest = text[len(MARK) :].partition(f"\n{MARK}")
        if mark:
            return f"{head}\n", rest
    return "", text
