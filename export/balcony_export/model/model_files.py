"""Find the weight files of a model folder, and refuse unusable folders before anything else is read or written."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from balcony_edge.errors import ModelError
from balcony_edge.files.reading import Reader

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SUFFIX = ".safetensors"
# What is read of a model folder. Weights only as safetensors: a pickle can run code. README and licence: the bundle's
# card repeats the licence.
CARDS = ["README.md", "LICENSE*", "NOTICE*"]
FILES = [
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "*.jinja",
    *CARDS,
]
# The quantised checkpoints that are read, by what config.json calls their method.
READ_METHODS = ("awq", "gptq")
# These files are pickles, and reading a pickle can run code.
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
AGAIN = "download the model again"
# The largest are the tokenizers of some hundred thousand tokens.
READER = Reader("the model's file", ModelError, AGAIN, 512 << 20)
CONVERT = (
    "convert it, if you trust it: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder), "
    "and save the tokenizer there too"
)


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises ModelError naming the file if it is missing, broken or no JSON object."""
    return READER.object(path, any_numbers=True)


def weight_map(folder: Path) -> dict[str, str] | str:
    """The file of every tensor, from the folder's index; or, where one file holds all tensors, its name.

    If a folder has both the single file and an index, the single file is used, as transformers does. Every file that
    is returned exists and lies directly in the folder (it may be a link, as in the Hub's cache). Raises ModelError for
    a folder without weights that can be read: none at all, pickles, quantised ones, or an index that names files that
    are not there.
    """
    _refuse_quantised(folder)
    if (folder / SINGLE).is_file():
        return SINGLE
    if (folder / INDEX).is_file():
        return _read_index(folder)
    raise _no_weights(folder)


def _refuse_quantised(folder: Path) -> None:
    """Raise ModelError for fp8, bitsandbytes and the like: how their tensors are packed is not known here."""
    path = folder / "config.json"
    if not path.is_file():
        return
    scheme = read_json_object(path).get("quantization_config")
    if scheme is not None:
        method = scheme.get("quant_method") if isinstance(scheme, dict) else None
        if method in READ_METHODS:
            return
        raise ModelError(
            f"{folder} holds a checkpoint that is already quantised ({method or 'quantization_config'} in config.json)",
            f"give one quantised by {' or '.join(READ_METHODS)}, or the original fp32, bf16 or fp16 checkpoint, and "
            "quantise with --precision int8 or int4",
        )


def _read_index(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    found = read_json_object(path).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ModelError(f"{path} has no weight_map that names tensors and their files", AGAIN)
    for tensor, name in found.items():
        if not isinstance(name, str) or not _is_plain(name):
            raise ModelError(
                f"{path} puts {tensor} in {name!r}, which is no file name inside the folder",
                "do not use this checkpoint unless you know who wrote it; download it from its source",
            )
        if not name.endswith(SUFFIX):
            raise ModelError(f"{path} puts {tensor} in {name}; only safetensors are read", CONVERT)
    for name in sorted(set(found.values())):
        if not (folder / name).is_file():
            raise ModelError(f"{path} names {name}, which is not there", f"the checkpoint is not whole: {AGAIN}")
    return found


def _is_plain(name: str) -> bool:
    """Whether ``name`` is a plain file name, so that it cannot lead out of its folder."""
    return name not in ("", "..") and name == PurePosixPath(name).name and "\\" not in name and name.isprintable()


def _no_weights(folder: Path) -> ModelError:
    found = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in found if name.endswith(PICKLES)]
    if pickles:
        return ModelError(
            f"{folder} has its weights only as {pickles[0]}; balcony-edge reads safetensors only, "
            "because a pickle can run code",
            CONVERT,
        )
    return ModelError(
        f"{folder} has no {SINGLE} and no {INDEX}; found {found[:8] or 'nothing'}",
        "save the model as safetensors: model.save_pretrained(folder)",
    )


def first_line(error: Exception) -> str:
    """The first line of an error's text that says something, or the name of its class."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
