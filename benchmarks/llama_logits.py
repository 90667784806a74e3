"""llama.cpp in a process of its own: requantises a GGUF file, gives logits of texts, and times single tokens.

    python benchmarks/llama_logits.py MODEL.gguf TYPE OUT.gguf < windows.json > logits

TYPE is Q8_0, Q4_0, Q4_K_M, or "as-is". Reads a list of windows of token ids. Writes the logits of all positions, fp32,
one position after the other, then 8 bytes: the tokens per second of single tokens, a float64. Needs llama-cpp-python.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time

import llama_cpp
import numpy as np

CHUNK = 64
TIMED = 48


def main() -> None:
    source, kind, out = sys.argv[1:4]
    # The library prints to stdout, which is for logits.
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    if kind == "as-is":
        out = source
    elif not os.path.exists(out):  # noqa: PTH110
        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
        settings.allow_requantize = True
        if llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(settings)):
            sys.exit(f"llama.cpp could not make {kind} of {source}")
    model = llama_cpp.llama_model_load_from_file(out.encode(), llama_cpp.llama_model_default_params())
    windows = json.load(sys.stdin)
    settings = llama_cpp.llama_context_default_params()
    longest = max(map(len, windows))
    settings.n_ctx, settings.n_batch = longest + TIMED, CHUNK
    threads = len(os.sched_getaffinity(0))
    settings.n_threads = settings.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, settings)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(CHUNK, 0, 1)
    for ids in windows:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        for start in range(0, len(ids), CHUNK):
            piece = ids[start : start + CHUNK]
            batch.n_tokens = len(piece)
            for place, token in enumerate(piece):
                batch.token[place], batch.pos[place] = token, start + place
                batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, 0, 1
            if llama_cpp.llama_decode(context, batch):
                sys.exit("llama_decode failed")
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (len(piece), vocabulary))
            stream.write(np.ascontiguousarray(logits, np.float32).tobytes())
    batch.n_tokens, batch.logits[0] = 1, 1
    taken = []
    for place in range(TIMED):
        batch.token[0], batch.pos[0] = windows[-1][0], len(windows[-1]) + place
        begun = time.perf_counter()
        llama_cpp.llama_decode(context, batch)
        taken.append(time.perf_counter() - begun)
    stream.write(np.float64(1 / np.median(taken)).tobytes())
    stream.flush()


if __name__ == "__main__":
    main()
