"""Find the local folder of a model that a user names: a folder, a GGUF file, a short name or a Hub id. Downloads."""

from __future__ import annotations

import re
from pathlib import Path

from balcony_edge.bundle import catalogue, model_file
from balcony_edge.bundle.hub_errors import explain, reachable, require_client
from balcony_edge.bundle.mistyped import mistyped_folder
from balcony_edge.errors import ModelError
from balcony_edge.files.home import expand
from balcony_export.model.gguf import folder as gguf_folder
from balcony_export.model.gguf.header import PIECE, SUFFIX
from balcony_export.model.model_files import CARDS, FILES

# What the Hub's cache calls the folder of a model, before its owner and its name.
CACHED = "models--"
# One GGUF file of a repository, which often has many: owner/name:file.gguf.
HUB_FILE = re.compile(r"(?P<repo>[^:/]+/[^:/]+):(?P<file>[^:]+\.gguf)")


def resolve(model: str, revision: str | None = None, offline: bool = False) -> Path:
    """The local folder of ``model``: a folder, a GGUF file, a name of the catalogue, or a Hub id.

    A Hub id is owner/name or owner/name:file.gguf. ``revision``: of the Hub's repository. ``offline``: use the
    caches alone. Raises ModelError naming the model and why it cannot be had.
    """
    path = expand(model)
    if path.is_symlink() and not path.exists():
        raise ModelError(f"{model} is a link to {path.readlink()}, which is not there", "give the model itself")
    if path.is_dir():
        inside = gguf_folder.only_model(path)
        return path if inside is None else gguf_folder.unpack(inside)
    if path.is_file() and path.name.endswith(SUFFIX):
        return gguf_folder.unpack(path)
    if known := catalogue.find(model):
        if revision is not None:
            raise ModelError(f"{model} has no revisions: the catalogue names one file", "leave --revision out")
        return gguf_folder.unpack(model_file.fetch(known, offline))
    if one := HUB_FILE.fullmatch(model):
        folder = _download(one["repo"], [*_with_pieces(one["file"]), *CARDS], revision, offline)
        if not (folder / one["file"]).is_file():
            raise ModelError(
                f"{one['repo']} on the Hugging Face Hub has no file {one['file']}",
                f"look at its list of files: https://huggingface.co/{one['repo']}/tree/{revision or 'main'}",
            )
        return gguf_folder.unpack(folder / one["file"], beside=True)
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1 or model.endswith(SUFFIX):
        raise ModelError(
            f"{model} is no model folder{' and no file' * (not path.exists())}",
            "give a folder with config.json, a .gguf file, or a Hub id like owner/name or owner/name:file.gguf",
        )
    if revision is None and (wrong := mistyped_folder(model)) is not None:
        raise ModelError(*wrong)
    return _download(model, FILES, revision, offline)


def base_name(model: str, folder: Path) -> str:
    """The base's name in a manifest: a Hub id as it is, but of something local not where it lies.

    ``folder``: what ``resolve`` has found for ``model``.
    """
    if not expand(model).exists():
        return model
    if gguf_folder.linked_files(folder):
        return gguf_folder.base_name(folder)
    found = folder.resolve()
    return _hub_id(found) or found.name


def _hub_id(folder: Path) -> str | None:
    """The Hub id of a snapshot in the Hub's cache: …/models--owner--name/snapshots/<commit>; None for other folders."""
    if folder.parent.name != "snapshots" or not folder.parent.parent.name.startswith(CACHED):
        return None
    return "/".join(folder.parent.parent.name.removeprefix(CACHED).split("--", 1))


def _with_pieces(file: str) -> list[str]:
    """The patterns of what to download for a file: itself, and the other pieces if it is one of several."""
    piece = PIECE.fullmatch(file)
    return [file] if piece is None else [f"{piece['stem']}-?????-of-{piece['count']}{SUFFIX}"]


def _download(repo: str, patterns: list[str], revision: str | None, offline: bool) -> Path:
    require_client()
    from huggingface_hub import snapshot_download

    offline = offline or not reachable()
    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=offline, allow_patterns=patterns))
    except Exception as error:  # the client's errors share no base
        reason, hint = explain(error, repo)
        meant = "" if "/" in repo else f". Of the catalogue: {catalogue.suggestion(repo)}"
        raise ModelError(
            f"cannot get {repo} from the Hugging Face Hub: {reason}", f"{hint}, or give a local folder{meant}"
        ) from error
