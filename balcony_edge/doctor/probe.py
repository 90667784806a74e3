"""Tests whether an execution provider of ONNX Runtime really computes, with a tiny matrix product in a child process.

ONNX Runtime lists CUDA as available even if its libraries are missing, and silently falls back to the CPU. And a broken
driver can crash the process. So a child runs the test: ``python -m balcony_edge.doctor.probe NAME``.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass

# An ONNX graph: y = x @ (2 I), fp32 [1, 4], opset 13. tests/export/graphs/test_probe_graph.py builds the same.
GRAPH = base64.b64decode(
    "CAgSDGJhbGNvbnktZWRnZTqRAQoRCgF4CgF3EgF5IgZNYXRNdWwSBXByb2JlKksIBAgEEAFCAXdKQAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAQAAA"
    "AAAAAAAAAAAAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAEBaEwoBeBIOCgwIARIICgIIAQoCCARiEwoBeRIOCgwIARIICgIIAQoCCARCBAoA"
    "EA0="
)
LIMIT_S = 60.0
_MARK = "balcony-edge probe: "
_LIBRARY = re.compile(r"(lib[A-Za-z0-9_]+\.so[.0-9]*)")


@dataclass(frozen=True, slots=True)
class Probed:
    """The result for one provider. ``works``: this provider, and no other in its place, gave the right numbers."""

    provider: str
    works: bool
    detail: str
    """The milliseconds of one run, or why it does not work."""
    missing: tuple[str, ...] = ()
    """Shared libraries that could not be loaded."""


def probe(provider: str, limit_s: float = LIMIT_S) -> Probed:
    """Test one provider, for at most ``limit_s`` seconds. Never raises: a crash or a hang is a result too."""
    command = [sys.executable, "-m", "balcony_edge.doctor.probe", provider]
    try:
        child = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return Probed(provider, False, f"it did not answer within {limit_s:.0f} s")
    except OSError as error:
        return Probed(provider, False, f"no process could be started: {error.strerror}")
    answers = [line.removeprefix(_MARK) for line in child.stdout.splitlines() if line.startswith(_MARK)]
    lines = [line.strip() for line in (child.stderr + child.stdout).splitlines() if line.strip()]
    said = [line for line in lines if "fail" in line.lower() or "cannot open shared object" in line]
    missing = tuple(dict.fromkeys(name for line in said if "cannot open" in line for name in _LIBRARY.findall(line)))
    missing = tuple(name for name in missing if not name.startswith("libonnxruntime"))
    if not answers:
        last = lines[-1] if lines else ""
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
        return Probed(provider, False, f"its process ended with {how}{': ' if last else ''}{last}", missing)
    answer = json.loads(answers[-1])
    if answer["works"]:
        return Probed(provider, True, f"{answer['ms']:.1f} ms")
    reason = f"{', '.join(missing)} cannot be loaded" if missing else answer["reason"]
    return Probed(provider, False, reason, missing)


def main() -> None:
    """The child process: prints the result as JSON after a mark, since libraries may print lines of their own."""
    works, reason, elapsed_ms = False, "", 0.0
    try:
        works, reason, elapsed_ms = _compute(sys.argv[1])
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    print(_MARK + json.dumps({"works": works, "reason": reason, "ms": elapsed_ms}), flush=True)


def _compute(provider: str) -> tuple[bool, str, float]:
    import numpy as np

    from balcony_edge.engine.runtime import onnxruntime, preload_cuda

    ort = onnxruntime()
    if provider == "CUDAExecutionProvider":
        print(preload_cuda(ort), file=sys.stderr)
    session = ort.InferenceSession(GRAPH, providers=[provider])
    if provider not in session.get_providers():
        return False, f"ONNX Runtime put {', '.join(session.get_providers())} in its place", 0.0
    x = np.array([[1, 2, 3, 4]], np.float32)
    session.run(None, {"x": x})
    begun = time.perf_counter()
    (y,) = session.run(None, {"x": x})
    elapsed_ms = (time.perf_counter() - begun) * 1e3
    if not np.array_equal(y, 2 * x):
        return False, f"it computed {y.tolist()} and not {(2 * x).tolist()}", elapsed_ms
    return True, "", elapsed_ms


if __name__ == "__main__":
    main()
