"""Which tests run on the emulated machine, and why these.

An emulated processor is some twenty times slower. So it runs what can differ there: kernels and their bits, native
libraries, what Linux on Arm shows of itself, child processes, and whole commands on the demo. Plain Python (the
controller's decisions, most of text, files of others) is the same everywhere and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from arm.environment import NEWEST, OLDEST

KERNELS = (
    # Logits depend on the tokens alone; what the self-test of batches says is true; fp32, int8 and int4.
    "tests/engine/test_attention.py",
    "tests/engine/test_invariants.py",
    "tests/engine/test_providers.py",
    "tests/engine/test_runtime.py",
    # The same bundles here and on the host.
    "tests/arm",
    # Which machine is it, and which providers compute: a child for each.
    "tests/doctor",
    "tests/telemetry/test_processor.py",
)
MORE = (
    "tests/engine/test_graph_shapes.py",
    "tests/engine/test_prompt_cache.py",
    # Memory: what glibc, the kernel's pages and mapped files do.
    "tests/engine/test_footprint.py",
    "tests/engine/test_heap.py",
    "tests/engine/test_huge_pages.py",
    "tests/engine/test_mapped.py",
    # Lossless decoding, to the last bit, at every precision; whole sessions on the demo.
    "tests/decoding/test_loop.py",
    "tests/test_session.py",
    "tests/cli/test_demo.py::test_without_the_download_the_stories_answer_and_it_says_why",
    # The tokenizers library.
    "tests/text/test_tokenizer.py",
    # Sensors on the files of boards; profiles of stages.
    "tests/telemetry/readers",
    "tests/telemetry/test_boards.py",
    "tests/control/test_profile.py::test_every_stage_is_measured_for_every_size",
    "tests/control/test_profile.py::test_the_second_run_reads_the_cache",
    # Bundles are opened and written whole.
    "tests/bundle/test_atomic_folder.py",
)


@dataclass(frozen=True)
class Machine:
    """One run: a version of ONNX Runtime, a processor in qemu's words, and the tests."""

    onnxruntime: str
    processor: str
    tests: tuple[str, ...]


MACHINES = (
    # A Jetson Orin's instructions (Armv8.2 with dot products), with the version that NVIDIA's wheels have.
    Machine(OLDEST, "cortex-a76", KERNELS + MORE),
    # All that is emulated: matrix products of int8 and bf16, long vectors.
    Machine(NEWEST, "max", KERNELS),
)
