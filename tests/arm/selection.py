"""Which tests run on the emulated machine, and why these.

An emulated processor is some twenty times slower. So it runs what can differ there: kernels and their bits, native
libraries, what Linux on Arm shows of itself, child processes, and whole commands on the demo. Decisions (the
controller) are plain Python and the same everywhere; of them one page is enough.
"""

from __future__ import annotations

from arm.environment import NEWEST, OLDEST

ALL = (
    # The self-test of batches, all precisions; prompt caches; memory; sampling.
    "tests/engine",
    # Lossless decoding at every precision; tokenizers and templates, in children with limits.
    "tests/decoding",
    # Which machine is it, which providers compute: a child for each.
    "tests/doctor",
    # Sensors on trees of files, recorded from boards.
    "tests/telemetry",
    "tests/profiles",
    # What is said of a processor, and profiles of stages.
    "tests/control",
    # Bundles are opened and checked; files are read and written.
    "tests/bundle",
    "tests/files",
    # Whole sessions and commands on the demo.
    "tests/test_session.py",
    "tests/cli/test_demo.py",
    # Text to budgets.
    "tests/controller/test_budget.py",
    # The same bundles here and on the host.
    "tests/arm",
)

SELECTION = {OLDEST: ALL, NEWEST: ALL}
"""By the version of ONNX Runtime."""
