"""The same bundles on two machines: which logits and tokens are equal?

    python benchmarks/machines.py write answers.npz BUNDLE...     on one machine
    python benchmarks/machines.py compare answers.npz BUNDLE...   on the other

``demo`` is the bundle that ships. The first machine decodes greedily at full depth. The second computes the logits of
the same tokens, so that each token is compared in the same context; where the first one differs, the two machines'
replies would part. Prints a row for each bundle.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from balcony_edge import AdaptiveSession, Bundle
from balcony_edge.measure.prompts import STORIES
from balcony_edge.telemetry import FakeSensors

TOKENS = 64
"""Of each reply, at the most."""


def opened(bundle: str | Path) -> AdaptiveSession:
    """A session at full depth, on the CPU and without drafts."""
    found = Bundle.demo() if bundle == "demo" else Bundle(bundle)
    return AdaptiveSession(found, provider="cpu", speculate=False, sensors=FakeSensors())


def write(file: Path, bundles: Sequence[str | Path], prompts: Sequence[str] = STORIES, tokens: int = TOKENS) -> None:
    """Answer all prompts with each bundle, and write ids and logits to an ``.npz`` file."""
    found: dict[str, np.ndarray] = {}
    for number, bundle in enumerate(bundles):
        with opened(bundle) as session:
            for row, prompt in enumerate(prompts):
                ids = session.codec.encode(prompt)
                whole = [*ids, *(token.id for token in session.stream(ids, tokens))]
                found[f"{number}/{row}/ids"] = np.array(whole)
                found[f"{number}/{row}/begin"] = np.array(len(ids))
                found[f"{number}/{row}/logits"] = session.logits(whole)[len(ids) - 1 : -1]
    np.savez(file, **found)


def compare(file: Path, bundles: Sequence[str | Path]) -> list[dict[str, float]]:
    """For each bundle: how many tokens and whole replies this machine gives too, and how far logits lie apart."""
    rows = []
    with np.load(file) as given:
        for number, bundle in enumerate(bundles):
            replies = sorted(key for key in given if key.startswith(f"{number}/") and key.endswith("/ids"))
            row = {"tokens": 0, "same_tokens": 0, "replies": len(replies), "same_replies": 0, "largest_difference": 0.0}
            with opened(bundle) as session:
                for key in replies:
                    ids, begin = given[key], int(given[key.replace("ids", "begin")])
                    theirs = given[key.replace("ids", "logits")]
                    ours = session.logits(ids.tolist())[begin - 1 : -1]
                    same = ours.argmax(axis=1) == ids[begin:]
                    row["tokens"] += len(same)
                    row["same_tokens"] += int(same.sum())
                    row["same_replies"] += bool(same.all())
                    row["largest_difference"] = max(row["largest_difference"], float(np.abs(ours - theirs).max()))
            rows.append(row)
    return rows


def main() -> None:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["write", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--prompts", type=int, default=len(STORIES))
    options = parser.parse_args()
    if options.do == "write":
        write(options.file, options.bundles, STORIES[: options.prompts])
        return
    for bundle, row in zip(options.bundles, compare(options.file, options.bundles), strict=True):
        tokens, replies = (f"{row[f'same_{what}']} of {row[what]} {what}" for what in ("tokens", "replies"))
        print(f"{bundle}: {tokens}, {replies}, logits within {row['largest_difference']:.2g}")


if __name__ == "__main__":
    main()
