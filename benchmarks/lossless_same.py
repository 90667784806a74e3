"""Is every lossless token the full model's? A thousand prompts, token by token, and every bit of log-probabilities.

    python benchmarks/lossless_same.py smollm2-135m
    python benchmarks/lossless_same.py fp32/ int8/ --prompts 1000 --tokens 48 [--first 0]

Prompts are those of lossless_prompts.py, each in several manners. Each is answered by plain full depth and by the
session as it decodes lossless, with one governor for all. Of one prompt in ten, log-probabilities are compared too.
Nothing here is timed. Prints a line for each bundle and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
from random import Random
from typing import Any

from lossless_prompts import prompts

from balcony_controller import FixedDepth
from balcony_edge import AdaptiveSession
from balcony_edge.engine.sampling import Sampler

MANNERS = (
    "{}",
    "{}\n\nAnswer briefly.",
    "{}\n\nAnswer as a list.",
    "{}\n\nExplain it to a child.",
    "Think first, then answer. {}",
    "{}\n\nGive an example.",
    "{}\n\nWrite at least three sentences.",
)
SCORED_OF = 10


def asked(count: int) -> list[str]:
    """``count`` prompts; all kinds by turns."""
    plain = [text for listed in prompts().values() for text in listed]
    found = [manner.format(text) for manner in MANNERS for text in plain]
    Random(2).shuffle(found)
    if count > len(found):
        raise SystemExit(f"there are {len(found)} prompts, not {count}")
    return found[:count]


def compare(session: AdaptiveSession, first: int, count: int, tokens: int) -> dict[str, Any]:
    """Plain full depth and lossless decoding over the prompts from ``first`` on, up to the ``count``-th."""
    found = dict.fromkeys(("replies", "same_replies", "tokens", "same_tokens", "scored", "same_scores"), 0)
    drafts = dict.fromkeys(("drafted", "accepted", "looked_up", "guessed"), 0)
    full = FixedDepth(session.ladder.full)
    for place, text in enumerate(asked(count)[first:], first):
        ids = session.codec.encode_chat([{"role": "user", "content": text}])
        scored = place % SCORED_OF == 0

        def sampler(scored: bool = scored) -> Sampler | None:
            return Sampler(top_logprobs=2) if scored else None

        plain = list(session.reply(ids, tokens, decider=full, sampler=sampler()))
        reply = session.reply(ids, tokens, sampler=sampler())
        lossless = list(reply)
        same = [one.id == other.id for one, other in zip(plain, lossless, strict=False)]
        found["replies"] += 1
        found["same_replies"] += [one.id for one in plain] == [one.id for one in lossless]
        found["tokens"] += len(plain)
        found["same_tokens"] += sum(same)
        if scored:
            found["scored"] += len(plain)
            found["same_scores"] += sum(one.score == other.score for one, other in zip(plain, lossless, strict=False))
        for name in drafts:
            drafts[name] += getattr(reply, name)
        if place % 100 == 99:
            print(f"{place + 1} of {count}: {found['same_tokens']} of {found['tokens']} tokens", file=sys.stderr)
    return found | drafts | {"bit_exact": session.ladder_profile.bit_exact}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="+")
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--first", type=int, default=0, help="where to begin, to do it in parts")
    options = parser.parse_args()
    rows = {}
    for bundle in options.bundle:
        with AdaptiveSession(bundle) as session:
            rows[bundle] = found = compare(session, options.first, options.prompts, options.tokens)
        print(
            f"{bundle}: {found['same_replies']} of {found['replies']} replies, {found['same_tokens']} of "
            f"{found['tokens']} tokens and {found['same_scores']} of {found['scored']} log-probabilities the same; "
            f"{found['accepted']} of {found['drafted']} drafts accepted"
        )
    print(
        json.dumps(
            {"benchmark": "lossless_same", "first": options.first, "tokens_a_reply": options.tokens, "bundles": rows}
        )
    )


if __name__ == "__main__":
    main()
