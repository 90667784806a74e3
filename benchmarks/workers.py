"""Decoders in processes of their own, asked in turn: nobody's idle threads spin while another is measured."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

# Given a prompt and a number of tokens: greedy tokens and the seconds that decoding (not prefill) took.
Decode = Callable[[Sequence[int], int], tuple[list[int], float]]
# What a decoder answers.
Answer = TypeVar("Answer")


def ladder_decoder(bundle: str, threads: int) -> Decode:
    """Full depth of a bundle through the engine's own ladder."""
    from balcony_edge.bundle.folder import Bundle
    from balcony_edge.engine.ladder import Ladder
    from balcony_edge.engine.runtime import Runtime

    ladder = Ladder(Bundle(bundle), Runtime.start("cpu", threads), max_context=1024)

    def decode(prompt: Sequence[int], count: int) -> tuple[list[int], float]:
        ladder.rewind(0)
        ladder.append(prompt)
        tokens = [int(ladder.next_logits(ladder.full).argmax())]
        begun = time.perf_counter()
        for _ in range(count):
            ladder.append(tokens[-1:])
            tokens.append(int(ladder.next_logits(ladder.full).argmax()))
        return tokens, time.perf_counter() - begun

    return decode


def small_pages_decoder(bundle: str, threads: int) -> Decode:
    """The same without huge pages."""
    os.environ["BALCONY_HUGE_PAGES"] = "0"
    return ladder_decoder(bundle, threads)


def genai_decoder(folder: str, threads: int) -> Decode:
    """onnxruntime-genai's generator over one of its own model folders (its config names the threads)."""
    import onnxruntime_genai as genai

    config = genai.Config(folder)
    config.overlay(f'{{"model": {{"decoder": {{"session_options": {{"intra_op_num_threads": {threads}}}}}}}}}')
    model = genai.Model(config)

    def decode(prompt: Sequence[int], count: int) -> tuple[list[int], float]:
        params = genai.GeneratorParams(model)
        params.set_search_options(do_sample=False, max_length=1024, min_length=1024)
        generator = genai.Generator(model, params)
        generator.append_tokens(list(prompt))
        generator.generate_next_token()
        begun = time.perf_counter()
        for _ in range(count):
            generator.generate_next_token()
        spent = time.perf_counter() - begun
        return [int(token) for token in generator.get_sequence(0)[len(prompt) :]], spent

    return decode


def torch_decoder(folder: str, threads: int) -> Decode:
    """transformers in torch's eager mode, its own growing cache."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def decode(prompt: Sequence[int], count: int) -> tuple[list[int], float]:
        out = model(input_ids=torch.tensor([list(prompt)]), use_cache=True, logits_to_keep=1)
        tokens = [int(out.logits[0, -1].argmax())]
        begun = time.perf_counter()
        for _ in range(count):
            out = model(input_ids=torch.tensor([tokens[-1:]]), past_key_values=out.past_key_values, use_cache=True)
            tokens.append(int(out.logits[0, -1].argmax()))
        return tokens, time.perf_counter() - begun

    return decode


def llama_decoder(file: str, threads: int) -> Decode:
    """llama.cpp over a GGUF file, through its C interface: no copy of logits, no sampler chain."""
    import ctypes

    import llama_cpp
    import numpy as np

    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(file.encode(), llama_cpp.llama_model_default_params())
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_threads, settings.n_threads_batch = 1024, 1024, threads, threads
    context = llama_cpp.llama_init_from_model(model, settings)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def step(ids: Sequence[int]) -> int:
        array = (llama_cpp.llama_token * len(ids))(*ids)
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(ids))):
            raise RuntimeError("llama_decode failed")
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (vocabulary,))
        return int(logits.argmax())

    def decode(prompt: Sequence[int], count: int) -> tuple[list[int], float]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        tokens = [step(prompt)]
        begun = time.perf_counter()
        for _ in range(count):
            tokens.append(step(tokens[-1:]))
        return tokens, time.perf_counter() - begun

    # The callback must outlive the library's use of it.
    decode.keep = quiet  # type: ignore[attr-defined]
    return decode


class Worker(Generic[Answer]):
    """A process that holds one decoder."""

    def __init__(self, make: Callable[..., Callable[[Sequence[int], int], Answer]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make, arguments), daemon=True)
        self._process.start()
        ready = self._pipe.recv()
        if ready != "ready":
            raise RuntimeError(f"{make.__name__}{arguments}: {ready}")

    def decode(self, prompt: Sequence[int], count: int) -> Answer:
        """The decoder's answer: greedy tokens and seconds."""
        self._pipe.send((list(prompt), count))
        answer: Answer = self._pipe.recv()
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


def _serve(
    pipe: Connection, make: Callable[..., Callable[[Sequence[int], int], Any]], arguments: tuple[Any, ...]
) -> None:
    try:
        decode = make(*arguments)
    except Exception as error:  # told to the parent in words
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send("ready")
    while True:
        pipe.send(decode(*pipe.recv()))
