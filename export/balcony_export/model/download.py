"""Find the local folder of a model that a user names by a folder or a Hub id, downloading it if need be."""

from __future__ import annotations

from pathlib import Path

from balcony_edge.bundle.hub_errors import explain, require_client
from balcony_edge.errors import ModelError

# Weights only as safetensors: a pickle can run code. README and licence: the bundle's card repeats the licence.
FILES = [
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "*.jinja",
    "README.md",
    "LICENSE*",
    "NOTICE*",
]


def resolve(model: str, revision: str | None = None, offline: bool = False) -> Path:
    """The local folder of ``model``, a path or a Hub id at ``revision``; ``offline``: use the Hub's cache alone.

    Raises ModelError naming the model and why it cannot be had.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ModelError(f"{model} is no model folder", "give a folder with config.json, or a Hub id like owner/name")
    require_client()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=offline, allow_patterns=FILES))
    except Exception as error:  # the client's errors share no base
        reason, hint = explain(error, model)
        raise ModelError(
            f"cannot get {model} from the Hugging Face Hub: {reason}", f"{hint}, or give a local folder"
        ) from error
