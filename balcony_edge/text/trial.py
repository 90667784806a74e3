"""The first time that a bundle is opened on a machine, its tokenizer is tried in a child process with limits.

The tokenizers library is native code: some files end the process, or fill its memory, before anybody can say why. What
has passed is noted in the cache, by the bundle's digest, so that later starts are as fast as without a trial.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from balcony_edge.bundle.folder import Bundle
from balcony_edge.errors import BundleError
from balcony_edge.files.cache import cache_folder
from balcony_edge.files.writing import write_whole
from balcony_edge.system.child import UnavailableError
from balcony_edge.text.confined import Confined, ConfinedError

VERSION = 1
MEMORY_BYTES, MEMORY_PER_BYTE = 512 << 20, 40
# Seconds, and how many more a megabyte of tokenizer is worth on a slow device.
LIMIT_S, LIMIT_S_PER_MB, LONGEST_S = 8.0, 0.5, 60.0
AVOID = "if the bundle comes from somebody else, do not use it; else export it again"


def try_tokenizer(bundle: Bundle, path: Path, split_special: bool) -> None:
    """Raise BundleError if a bundle's tokenizer does not pass; do nothing where it has passed before.

    Where no child process can be started, nothing is tried.
    """
    mark = mark_of(bundle)
    if is_ours(bundle) or (mark is not None and mark.is_file()):
        return
    size = path.stat().st_size
    child = Confined(MEMORY_BYTES + MEMORY_PER_BYTE * size)
    try:
        limit_s = min(LONGEST_S, LIMIT_S + LIMIT_S_PER_MB * size / 1e6)
        answer = child.ask(limit_s, do="tokenizer", path=str(path.absolute()), split_special=split_special)
    except ConfinedError as error:
        raise BundleError(f"the tokenizer {path} was tried and fails: {error}", AVOID) from error
    except UnavailableError:
        return
    finally:
        child.close()
    if "error" in answer:
        raise BundleError(str(answer["error"]), AVOID)
    if mark is None:
        return
    with suppress(OSError):  # without a cache it is tried again at the next start
        write_whole(mark, b"")


def mark_of(bundle: Bundle) -> Path | None:
    """The file that says that a bundle's tokenizer has passed, with this version of the library; None: no cache."""
    passed = (VERSION, bundle.manifest.digest, metadata.version("tokenizers"))
    folder = cache_folder()
    return None if folder is None else folder / "tried" / hashlib.sha256(repr(passed).encode()).hexdigest()[:24]


def is_ours(bundle: Bundle) -> bool:
    """Whether a bundle comes with the package."""
    return bundle.path.resolve().is_relative_to(Path(__file__).resolve().parents[1])
