"""Samples of many sequences at once, from a bundle's uncut graph. Text for calibration, so its weights may be int8."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from balcony_edge.bundle.folder import Bundle
from balcony_edge.engine.runtime import Runtime, onnxruntime
from balcony_export.graphs.interchange import GRAPH_NAME
from balcony_export.model.checkpoint import Array

BATCHED = "batched.onnx"
# Sampling stays among the likeliest tokens: a long tail of a small model is noise.
TOP = 200


def continue_texts(
    bundle: Bundle,
    starts: Sequence[Sequence[int]],
    temperatures: Sequence[float],
    length: int,
    seed: int,
    progress: Callable[[int], None],
) -> list[list[int]]:
    """Continue each of ``starts``, ids of at least one token, to ``length`` tokens; all of them are run together.

    ``temperatures``: one a sequence. ``progress`` is called with the number of positions that are done. ``bundle`` must
    be one for the CPU; its folder gets one more graph.
    """
    arch, rows = bundle.manifest.architecture, len(starts)
    random = np.random.default_rng(seed)
    ids = np.zeros((rows, length), np.int64)
    for row, start in enumerate(starts):
        ids[row, : len(start)] = start[:length]
    given = np.array([len(start) for start in starts])
    ort = onnxruntime()
    session = Runtime.start("cpu").session(_batched(bundle.path))
    binding = session.io_binding()
    for index in range(arch.layers):
        for part in ("key", "value"):
            # One buffer for both: the kernel adds to it in place.
            cache = ort.OrtValue.ortvalue_from_numpy(np.zeros((rows, arch.kv_heads, length, arch.head_dim), np.float32))
            binding.bind_ortvalue_input(f"past_{part}.{index}", cache)
            binding.bind_ortvalue_output(f"present_{part}.{index}", cache)
    binding.bind_output("logits")
    for place in range(length - 1):
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(ids[:, place : place + 1]))
        binding.bind_cpu_input("attention_mask", np.ones((rows, place + 1), np.int64))
        session.run_with_iobinding(binding)
        # Outputs come in the order in which they were bound, "logits" last.
        logits = binding.get_outputs()[-1].numpy()
        free = given <= place + 1
        ids[free, place + 1] = _draw(logits[free, 0], np.asarray(temperatures)[free], random)
        progress(place + 1)
    return [[int(token) for token in row] for row in ids]


def _draw(logits: Array, temperatures: Array, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """A token of each row of ``logits`` [rows, vocabulary]."""
    top = min(TOP, logits.shape[1])
    likeliest = np.argpartition(-logits, top - 1, axis=1)[:, :top]
    likeliest.sort(axis=1)
    scores = np.take_along_axis(logits, likeliest, axis=1) / temperatures[:, None]
    shares = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True)).cumsum(axis=1)
    drawn = random.random(len(logits)) * shares[:, -1]
    places = (shares < drawn[:, None]).sum(axis=1)
    drawn_tokens: npt.NDArray[np.int64] = np.take_along_axis(likeliest, places[:, None], axis=1)[:, 0]
    return drawn_tokens


def _batched(folder: Path) -> Path:
    """The uncut graph for any number of sequences; it lies beside the weights."""
    model = onnx.load(str(folder / GRAPH_NAME), load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "sequences"
    path = folder / BATCHED
    path.write_bytes(model.SerializeToString())
    return path
