"""From what a user types (a folder or a Hub id) to a local model folder."""

from __future__ import annotations

from pathlib import Path

from balcony_edge.errors import ModelError

# Weights as safetensors only: a pickle can run code.
FILES = [
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "*.jinja",
]


def resolve(model: str, revision: str | None = None, offline: bool = False) -> Path:
    """The local folder of ``model``. Raises ModelError naming the model and why it cannot be had."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ModelError(f"{model} is no model folder", "give a folder with config.json, or a Hub id like owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=offline, allow_patterns=FILES))
    except Exception as error:  # the hub client raises many kinds: no network, no such repo, gated, offline
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"cannot get {model} from the Hugging Face Hub: {reason}",
            "check the name and the network (or --offline), or give a local folder",
        ) from error
