"""The uncut graph of a bundle, run by ONNX Runtime alone and fed as onnxruntime-genai feeds it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from balcony_edge.bundle.folder import Bundle
from balcony_edge.engine.pages.mapped import release_pages
from balcony_edge.engine.runtime import Runtime, onnxruntime
from balcony_export.graphs.interchange import GRAPH_NAME
from balcony_export.verification.measures import Values


class Uncut:
    """``full.onnx`` of a bundle for the CPU, with caches for ``positions``. Raises BundleError if it cannot be loaded.

    It shares weights with the segments and nothing else of what runs: no ladder, no stages, no head.
    """

    def __init__(self, bundle: Bundle, positions: int) -> None:
        self._session = Runtime.start("cpu").session(bundle.file(GRAPH_NAME))
        release_pages(bundle.path)
        self._length = 0
        arch = bundle.manifest.architecture
        shape = (1, arch.kv_heads, positions, arch.head_dim)
        # An OrtValue on the CPU is the array itself: each cache needs its own.
        self._caches = {
            item.name: onnxruntime().OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
            for item in self._session.get_inputs()
            if item.name.startswith("past_")
        }

    def append(self, ids: Sequence[int]) -> Values:
        """Add tokens to the sequence; returns their logits, fp32 [len(ids), V]."""
        self._length += len(ids)
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", np.array([ids], np.int64))
        binding.bind_cpu_input("attention_mask", np.ones((1, self._length), np.int64))
        binding.bind_output("logits")
        for name, cache in self._caches.items():
            binding.bind_ortvalue_input(name, cache)
            binding.bind_ortvalue_output(name.replace("past_", "present_"), cache)
        self._session.run_with_iobinding(binding)
        logits: Values = binding.copy_outputs_to_cpu()[0][0]
        return logits
