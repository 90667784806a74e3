"""How often does each exit of a bundle give the full model's token, on text that it was not trained on?

    python benchmarks/agreement.py [BUNDLE] --data stories-simple.txt.xz [--documents 100] [--all]

Takes the held-out documents of the file (--all: every document), runs them through the real session at every depth,
and prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from balcony_edge import AdaptiveSession
from balcony_export import corpus


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities [positions, V] in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    texts = [text for text in corpus.documents([options.data]) if options.all or corpus.is_heldout(text)]
    totals: dict[int, np.ndarray] = {}
    with AdaptiveSession(options.bundle) as session:
        full = session.ladder.full
        for text in texts[: options.documents]:
            ids = session.codec.encode(text)[: session.ladder.context]
            if len(ids) < 2:
                continue
            answers = {depth: log_softmax(session.logits(ids, depth)) for depth in session.ladder.depths}
            truth = answers[full]
            for depth, log_p in answers.items():
                agreed = (log_p.argmax(1) == truth.argmax(1)).sum()
                kl = (np.exp(truth) * (truth - log_p)).sum()
                loss = -log_p[np.arange(len(ids) - 1), ids[1:]].sum()
                totals[depth] = totals.get(depth, np.zeros(5)) + np.array([agreed, kl, loss, len(ids), len(ids) - 1])
    results = {
        str(depth): {
            "agreement": round(agreed / count, 4),
            "kl_nats": round(kl / count, 4),
            "loss_nats": round(loss / predicted, 4),
        }
        for depth, (agreed, kl, loss, count, predicted) in totals.items()
    }
    print(f"{'depth':>6} {'agreement':>10} {'KL nats':>8} {'loss nats':>10}")
    for depth, row in results.items():
        print(f"{depth:>6} {row['agreement']:10.4f} {row['kl_nats']:8.4f} {row['loss_nats']:10.4f}")
    tokens = int(next(iter(totals.values()))[3])
    print(json.dumps({"benchmark": "agreement", "tokens": tokens, "results": results}))


if __name__ == "__main__":
    main()
