"""Model folders that hold no whole causal language model: each refused by its own reason, before anything is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from balcony_edge.errors import ModelError
from balcony_export.model.model_files import FILES, read_json_object

# What the folder of a PEFT adapter has.
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
# transformers names a class after what it is for. Of these the language model is a part or the whole.
OTHER_PURPOSE = re.compile(r"For(?!CausalLM|ConditionalGeneration)[A-Z]")


def refuse_adapter(folder: Path) -> None:
    """Raise ModelError for the folder of a PEFT adapter: changes to a model that is somewhere else."""
    if not any((folder / name).is_file() for name in ADAPTER):
        return
    try:
        base = read_json_object(folder / ADAPTER[0]).get("base_model_name_or_path")
    except ModelError:
        base = None
    raise ModelError(
        f"{folder} holds a PEFT adapter{f' of {base}' if isinstance(base, str) else ''}, not a whole model",
        f"merge it first, in Python: peft.AutoPeftModelForCausalLM.from_pretrained({str(folder)!r}).merge_and_unload()"
        ".save_pretrained('merged'); put the base's tokenizer files there too, and give the folder merged",
    )


def refuse_broken_links(folder: Path) -> None:
    """Raise ModelError for links to files that are gone, as a Hub cache has them that was cleared or copied in part."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.exists() and any(map(path.match, FILES)):
            raise ModelError(
                f"{path} is a link to {path.readlink()}, which is not there",
                "download the model again; to copy a folder of the Hub's cache, let the copy follow links (cp -rL)",
            )


def refuse_other_purposes(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise ModelError for a classifier, reward model and the like: its head gives no tokens."""
    names = config.get("architectures")
    names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    if names and all(OTHER_PURPOSE.search(name) for name in names):
        raise ModelError(
            f"{folder} holds a {names[0]}: its head gives no tokens, and there is no text to decode",
            "give the language model that it was made from (a …ForCausalLM)",
        )


def no_head(folder: Path) -> ModelError:
    """The error for a checkpoint without an LM head whose config does not say that the embedding serves as one."""
    return ModelError(
        f"the weights in {folder} have no LM head (lm_head.weight), and config.json does not tie it to the embedding: "
        "it is a model of embeddings or for another purpose, or only a part of one",
        "give a checkpoint of a whole language model (a …ForCausalLM)",
    )
