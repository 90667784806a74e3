"""Decoders of ours and of others, each plain or with drafts, that stop where the model ends its reply.

All decode greedily. What they answer counts the tokens of decoding alone: the prompt's time is in no figure.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Timed(NamedTuple):
    """A reply's tokens, an end token included; ``seconds`` is the time that ``timed`` of them took."""

    tokens: list[int]
    timed: int
    seconds: float


# Given a prompt and the most tokens of a reply.
Draft = Callable[[Sequence[int], int], Timed]


class Setting(NamedTuple):
    """What all decoders share: CPU threads, positions of the cache, and the tokens that end a reply."""

    threads: int
    context: int
    ends: frozenset[int]


def own_decoder(bundle: str, setting: Setting, way: str) -> Draft:
    """A session of ours under one of the governors of lossless_tasks.py."""
    from lossless_tasks import governors

    from balcony_edge import AdaptiveSession

    session = AdaptiveSession(bundle, provider="cpu", threads=setting.threads, max_context=setting.context)
    governor = governors(session)[way]

    def decode(prompt: Sequence[int], count: int) -> Timed:
        reply = session.reply(prompt, count, decider=governor, ends=setting.ends, fresh=True)
        for _ in reply:
            pass
        return Timed(reply.tokens, reply.figures.timed_tokens, reply.figures.decode_ms / 1e3)

    return decode


def llama_cpp_decoder(file: str, setting: Setting, drafts: int) -> Draft:
    """llama-cpp-python's own class; ``drafts`` tokens are looked up in the text so far, or none.

    With drafts the class keeps the logits of every position, and copies them; without, it need not and does not.
    """
    from llama_cpp import Llama
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    llama = Llama(
        file,
        n_ctx=setting.context,
        n_batch=setting.context,
        n_threads=setting.threads,
        n_threads_batch=setting.threads,
        draft_model=LlamaPromptLookupDecoding(num_pred_tokens=drafts) if drafts else None,
        verbose=False,
    )

    def decode(prompt: Sequence[int], count: int) -> Timed:
        # Without this the prompt that was asked before would be found in the cache.
        llama.reset()
        tokens: list[int] = []
        begun = 0.0
        for token in llama.generate(prompt, temp=0.0):
            if not tokens:
                begun = time.perf_counter()
            tokens.append(token)
            if token in setting.ends or len(tokens) == count:
                break
        return Timed(tokens, len(tokens) - 1, time.perf_counter() - begun)

    return decode


def transformers_decoder(folder: str, setting: Setting, drafts: int) -> Draft:
    """transformers' ``generate``; ``drafts`` tokens are looked up in the text so far, or none."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(setting.threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ends = sorted(setting.ends)

    def decode(prompt: Sequence[int], count: int) -> Timed:
        ids = torch.tensor([list(prompt)])
        # Time and length after the first pass. It runs the prompt, and with drafts may give several tokens.
        first: list[tuple[float, int]] = []

        def watch(so_far: Any, *_: Any, **__: Any) -> Any:
            if not first:
                first.append((time.perf_counter(), so_far.shape[1]))
            return torch.zeros(1, dtype=torch.bool)

        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            prompt_lookup_num_tokens=drafts or None,
            eos_token_id=ends,
            pad_token_id=ends[0],
            stopping_criteria=[watch],
        )
        ended = time.perf_counter()
        begun, length = first[0]
        return Timed(out[0, len(prompt) :].tolist(), out.shape[1] - length, ended - begun)

    return decode


def onnxruntime_genai_decoder(folder: str, setting: Setting, options: Mapping[str, Any]) -> Draft:
    """onnxruntime-genai's generator with its ``options`` for speculation; without any it decodes plainly."""
    import onnxruntime_genai as genai

    config = genai.Config(folder)
    threads = {"session_options": {"intra_op_num_threads": setting.threads}}
    config.overlay(json.dumps({"model": {"decoder": threads, "eos_token_id": sorted(setting.ends)}}))
    model = genai.Model(config)

    def decode(prompt: Sequence[int], count: int) -> Timed:
        params = genai.GeneratorParams(model)
        params.set_search_options(do_sample=False, max_length=setting.context)
        if options:
            params.set_speculative_options(**options)
        generator = genai.Generator(model, params)
        generator.append_tokens(list(prompt))
        begun = time.perf_counter()
        made = 0
        while made < count and not generator.is_done():
            generator.generate_next_token()
            made += 1
        spent = time.perf_counter() - begun
        tokens = [int(token) for token in generator.get_sequence(0)[len(prompt) :]]
        # The prompt's pass gives the first token for nothing. When it drafts, the generator runs the pass after each
        # token at once, also that after the last, so as many are paid for as there are tokens.
        return Timed(tokens, len(tokens) - (not options), spent)

    return decode
