"""Tests whether an execution provider of ONNX Runtime really computes, with a tiny matrix product in a child process.

ONNX Runtime lists CUDA as available even if its libraries are missing, and silently falls back to the CPU. And a broken
driver can crash the process. So a child runs the test (see ``main``).
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass

from balcony_edge.system import child

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
    """The result for one provider.

    ``works``: this provider, and no other in its place, gave the right numbers; None: it could not be tried.
    """

    provider: str
    works: bool | None
    detail: str
    """The milliseconds of one run, or why it does not work, or why that is not known."""
    missing: tuple[str, ...] = ()
    """Shared libraries that could not be loaded."""


def probe(provider: str, limit_s: float = LIMIT_S) -> Probed:
    """Test one provider, for at most ``limit_s`` seconds. Never raises: a crash or a hang is a result too."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    try:
        with child.start(__name__, provider, **pipes, text=True, errors="replace") as process:
            try:
                out, err = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                return Probed(provider, False, f"it did not answer within {limit_s:.0f} s")
            finally:
                process.kill()
    except child.UnavailableError as error:
        return Probed(provider, None, f"cannot start a child process: {error}")
    answers = [line.removeprefix(_MARK) for line in out.splitlines() if line.startswith(_MARK)]
    lines = [line.strip() for line in (err + out).splitlines() if line.strip()]
    said = [line for line in lines if "fail" in line.lower() or "cannot open shared object" in line]
    missing = tuple(dict.fromkeys(name for line in said if "cannot open" in line for name in _LIBRARY.findall(line)))
    missing = tuple(name for name in missing if not name.startswith("libonnxruntime"))
    if not answers:
        last = lines[-1] if lines else ""
        code = process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
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
