"""A bundle as a model for the LM-Evaluation-Harness (Gao et al.), at one depth or under a budget.

    balcony-edge lm-eval --model balcony --model_args bundle=bundle/,depth=8 --tasks arc_easy
    balcony-edge lm-eval --model balcony --model_args bundle=bundle/,budget=25ms --tasks arc_easy

At one depth, all positions of a text run in batches. Under a budget, the session decodes the text token by token like a
reply (see teacher_forcing.py). Such scores hold for that budget, on this device, as fast as it is at the moment.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs

from balcony_controller import FixedDepth
from balcony_edge.engine.sampling import Sampler
from balcony_edge.errors import DataError, PromptError
from balcony_edge.session import AdaptiveSession
from balcony_edge.telemetry import Sensors
from balcony_export.evaluation.teacher_forcing import ForcedSampler
from balcony_export.progress import Progress
from balcony_export.verification.measures import CHUNK, log_probabilities

logger = logging.getLogger(__name__)
# The log-likelihood in nats of a continuation, and whether greedy decoding gives it.
Score = tuple[float, bool]


class BalconyLM(TemplateLM):  # type: ignore[misc]
    """The model that ``--model balcony`` names.

    ``bundle``: a folder or Hub id; None: the embedded demo. ``depth``: an exit's depth, or "full" (the default).
    ``budget``: a budget as in ``balcony-edge run``, instead of a depth. ``max_gen_toks``: the length of a reply if the
    task does not set it. The harness's ``batch_size`` and ``device`` are ignored. Raises DataError for arguments that
    do not fit together, and what AdaptiveSession raises.
    """

    def __init__(
        self,
        bundle: str | None = None,
        depth: int | str | None = None,
        budget: str | None = None,
        provider: str = "auto",
        threads: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        sensors: Sensors | None = None,
        **ignored: Any,
    ) -> None:
        super().__init__()
        if depth is not None and budget is not None:
            raise DataError(f"depth={depth} and budget={budget} exclude each other", "give one of them")
        unknown = ignored.keys() - {"batch_size", "max_batch_size", "device"}
        if unknown:
            raise DataError(
                f"model_args knows no {', '.join(sorted(unknown))}",
                "use bundle, depth, budget, provider, threads, max_length, max_gen_toks",
            )
        self.session = AdaptiveSession(
            bundle, budget, provider=provider, threads=threads, max_context=max_length, sensors=sensors
        )
        ladder = self.session.ladder
        self.max_length = ladder.context
        self.max_gen_toks = max_gen_toks
        self.depth_counts: Counter[int] = Counter()
        """Under a budget: how many tokens were emitted at each depth."""
        self.depth: int | None = None
        if budget is None:
            self.depth = ladder.full if depth in (None, "full") else self._known_depth(depth)

    def _known_depth(self, depth: object) -> int:
        depths = self.session.ladder.depths
        if depth not in depths:
            self.session.close()
            raise DataError(f"this bundle has no depth {depth!r}", f"choose one of {list(depths)} or full")
        assert isinstance(depth, int)
        return depth

    # --- text and tokens ------------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The end token, or the start token if the model has no end token."""
        generation = self.session.bundle.manifest.generation
        found = [*generation.eos_token_ids, *([] if generation.bos_token_id is None else [generation.bos_token_id])]
        if not found:
            raise PromptError("this model has neither start nor end token", "give every request a context")
        return found[0]

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: the tokenizer's start token, or the end token if it has none."""
        codec = self.session.codec
        start = codec.token_id(codec.start_text) if codec.start_text else None
        return self.eot_token_id if start is None else start

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The token ids of a text, with the special tokens that the tokenizer adds.

        Without these if ``add_special_tokens`` is False, or if the text begins with the start token already because a
        chat template wrote it.
        """
        codec = self.session.codec
        if add_special_tokens is None:
            add_special_tokens = not (codec.start_text and string.startswith(codec.start_text))
        return codec.encode(string) if add_special_tokens else codec.check(codec.encode_bare(string))

    @property
    def tokenizer_name(self) -> str:
        """The name of the tokenizer in the harness's caches: the bundle's digest."""
        return str(self.session.bundle.manifest.digest)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The name of the chat template in the harness's results: the bundle's digest, as each bundle has its own."""
        return self.tokenizer_name if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text, by the model's own chat template. Raises PromptError if it has none."""
        template = self.session.codec.chat_template
        if template is None:
            raise PromptError("this model has no chat template", "leave --apply_chat_template out")
        if not add_generation_prompt:
            raise PromptError("a reply that is begun cannot be templated", "leave the task's gen_prefix out")
        return template.render(chat_history)

    # --- scores ---------------------------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]], **_: Any
    ) -> list[Score]:
        scores = []
        with Progress("score", len(requests)) as progress:
            for key, context, continuation in requests:
                score = self._score(context, continuation)
                scores.append(score)
                if key is not None:
                    self.cache_hook.add_partial("loglikelihood", key, score)
                progress.advance()
        self._tell_depths()
        return scores

    def _score(self, context: list[int], continuation: list[int]) -> Score:
        """The score of ``continuation`` after ``context``.

        If both are too long for the model, the beginning is cut off, as in the harness's own models.
        """
        if not continuation:
            return 0.0, True
        # In batches, the last token is predicted but never an input: so one token more than the context fits.
        most = self.max_length + (self.depth is not None)
        ids = self.session.codec.check([*context, *continuation])[-most:]
        start = len(ids) - min(len(continuation), len(ids) - 1)
        if self.depth is None:
            return self._score_decoding(ids[:start], ids[start:])
        ladder = self.session.ladder
        self.session.end_reply()
        total, greedy = 0.0, True
        # A question's several answers follow the same context: what is in the caches already is used again.
        ladder.resume(ids[:-1])
        for first in range(start - 1, len(ids) - 1, CHUNK):
            stop = min(first + CHUNK, len(ids) - 1)
            rows = log_probabilities(ladder.logits(self.depth, first, stop))
            following = np.array(ids[first + 1 : stop + 1], np.int64)
            total += float(rows[np.arange(len(following)), following].sum())
            greedy = greedy and bool((rows.argmax(axis=1) == following).all())
        return total, greedy

    def _score_decoding(self, prompt: list[int], continuation: list[int]) -> Score:
        """The score of ``continuation`` as the session decodes it under its budget."""
        sampler = ForcedSampler(continuation, start=len(prompt))
        # No ``ends``: an end token inside the given text must not end the reply.
        scored = sum(1 for _ in self.session.reply(prompt, len(continuation), sampler=sampler, ends=frozenset()))
        if scored < len(continuation):
            raise DataError(
                f"the budget {self.session.budget} ends a text after {scored} of {len(continuation)} tokens",
                "score under a budget for tokens, such as budget=25ms",
            )
        self.depth_counts.update(self.session.report().depth_counts)
        return sum(sampler.log_probabilities), all(sampler.likeliest)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihoods of whole texts in nats, in windows of the model's context that overlap by one token."""
        totals = []
        with Progress("score texts", len(requests)) as progress:
            for request in requests:
                (text,) = request.args
                windows = utils.get_rolling_token_windows(
                    token_list=self.tok_encode(text, add_special_tokens=False),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
                total = sum(self._score(*utils.make_disjoint_window(window))[0] for window in windows)
                totals.append(total)
                self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
                progress.advance()
        self._tell_depths()
        return totals

    # --- replies --------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The replies to requests, each cut before the first of its stop strings."""
        replies = []
        with Progress("generate", len(requests)) as progress:
            for request in requests:
                context, settings = request.args
                replies.append(self._reply(context, dict(settings)))
                self.cache_hook.add_partial("generate_until", request.args, replies[-1])
                progress.advance()
        self._tell_depths()
        return replies

    def _reply(self, context: str, settings: dict[str, Any]) -> str:
        wanted: Any = normalize_gen_kwargs(settings, self.max_gen_toks)
        count = min(int(wanted["max_gen_toks"]), self.max_length - 1)
        ids = self.tok_encode(context)[-(self.max_length - count) :]
        sampler = Sampler(
            temp=float(wanted["temperature"]) if wanted["do_sample"] else 0.0,
            top_k=int(wanted.get("top_k", 0)),
            top_p=float(wanted.get("top_p", 1.0)),
            min_p=float(wanted.get("min_p", 0.0)),
            repeat_penalty=float(wanted.get("repetition_penalty", 1.0)),
            seed=0,
        )
        stops = [stop for stop in wanted["until"] if stop]
        text = ""
        for piece in self._pieces(ids, count, sampler):
            text += piece
            cuts = [place for stop in stops if (place := text.find(stop)) >= 0]
            if cuts:
                return text[: min(cuts)]
        return text

    def _pieces(self, ids: list[int], count: int, sampler: Sampler) -> Iterator[str]:
        """The reply in pieces of text, one for each token."""
        decider = None if self.depth is None else FixedDepth(self.depth)
        for token in self.session.reply(ids, count, decider=decider, sampler=sampler):
            if self.depth is None:
                self.depth_counts[token.depth] += 1
            yield token.text

    def _tell_depths(self) -> None:
        """Log the shares of the depths under the budget so far."""
        if self.depth_counts:
            shares = [
                f"{depth}: {count / self.depth_counts.total():.1%}"
                for depth, count in sorted(self.depth_counts.items())
            ]
            logger.info("tokens by depth under %s: %s", self.session.budget, ", ".join(shares))
