"""The text that matrices are rounded for: samples of the base itself, or a file of the user's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from balcony_edge.bundle.folder import Bundle
from balcony_edge.errors import BundleError, DataError, PromptError
from balcony_edge.files.cache import cache_folder
from balcony_edge.files.reading import UNFITTING, parse_json, read_bytes
from balcony_edge.files.sealed import sealed, unsealed
from balcony_edge.files.writing import write_whole
from balcony_edge.text.codec import TextCodec
from balcony_export.data import corpus
from balcony_export.quantising.prompts import OPENINGS, REQUESTS
from balcony_export.quantising.sampling import continue_texts

# Tokens of a sequence, and how many sequences. Fewer tokens than a wide matrix has inputs cannot say which of its
# directions matter.
LENGTH, SEQUENCES = 512, 20
SEED = 20260
# The largest file of kept samples.
MOST_BYTES = 16 << 20
# Half of all sequences begin with nothing but the start token.
BLANK_TEMPERATURE, OPENING_TEMPERATURE, REQUEST_TEMPERATURE = 1.0, 0.9, 0.8

Sequences = list[list[int]]


def from_file(bundle: Bundle, path: Path) -> Sequences:
    """The beginnings of a text's documents as ids. Raises DataError for a text that is too short."""
    codec = TextCodec(bundle)
    length = min(LENGTH, bundle.manifest.architecture.context)
    found: Sequences = []
    for document in corpus.read_documents([path]):
        ids = [*codec.start, *codec.check(codec.encode_bare(document))]
        found += [ids[first : first + length] for first in range(0, len(ids), length)]
        # Enough to choose from, so that a long text is not seen at its beginning only.
        if len(found) >= 16 * SEQUENCES:
            break
    found = [ids for ids in found if len(ids) >= min(16, length)]
    if not found:
        raise DataError(f"{path} has too few words to calibrate on", "give a text of some thousand words")
    step = max(1, len(found) // SEQUENCES)
    return found[::step][:SEQUENCES]


def own_samples(bundle: Bundle, progress: Callable[[int], None]) -> Sequences:
    """Samples of the base, drawn from ``bundle``, an int8 one for the CPU; made once for each base and machine.

    ``progress`` is called with the number of positions that are done, of ``LENGTH``.
    """
    length = min(LENGTH, bundle.manifest.architecture.context)
    begun = starts(bundle)
    identity = json.dumps([bundle.manifest.base.sha256, begun, length, SEED, "2"])
    folder = cache_folder()
    path = folder and folder / "samples" / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
    if path is not None and (kept := _read(path, len(begun), bundle.manifest.architecture.vocabulary)) is not None:
        return kept
    ids = continue_texts(bundle, [ids for ids, _ in begun], [warmth for _, warmth in begun], length, SEED, progress)
    if path is not None:
        with suppress(OSError):  # no room or no right to write: they are made again the next time
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, sealed(json.dumps(ids)).encode())
    return ids


def starts(bundle: Bundle) -> list[tuple[list[int], float]]:
    """What the samples begin with, and the temperature of each: chats if the model has a template, words, nothing."""
    codec = TextCodec(bundle)
    chats: list[list[int]] = []
    for request in REQUESTS:
        try:
            chats.append(codec.encode_chat([{"role": "user", "content": request}]))
        except (PromptError, BundleError):
            break
    words = [[*codec.start, *codec.check(codec.encode_bare(text))] for text in OPENINGS]
    ends = bundle.manifest.generation.eos_token_ids
    blank = codec.start or ([bundle.manifest.generation.bos_token_id or (ends or [0])[0]])
    chosen = [(ids, REQUEST_TEMPERATURE) for ids in chats[: SEQUENCES * 3 // 10]]
    chosen += [(blank, BLANK_TEMPERATURE)] * (SEQUENCES // 5)
    chosen += [(ids, OPENING_TEMPERATURE) for ids in words if ids][: SEQUENCES - len(chosen)]
    return [(ids[: max(1, bundle.manifest.architecture.context // 2)], warmth) for ids, warmth in chosen]


def _read(path: Path, count: int, vocabulary: int) -> Sequences | None:
    """The kept samples; None if there are none, or none that can be used, which are then made again."""
    try:
        found = parse_json(unsealed(read_bytes(path, MOST_BYTES, pipes=False).decode()))
    except (OSError, *UNFITTING):
        return None
    if not isinstance(found, list) or len(found) != count or not all(isinstance(ids, list) and ids for ids in found):
        return None
    known = all(type(token) is int and 0 <= token < vocabulary for ids in found for token in ids)
    return found if known else None


def tokens(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens the sequences have together."""
    return sum(map(len, sequences))
