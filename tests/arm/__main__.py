"""Sets up the emulated machine, and runs the tests there with both versions of ONNX Runtime."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from arm.environment import PROCESSOR, ROOT, prepare, refuse_elsewhere
from arm.handed import hand_over
from arm.selection import MACHINES, Machine

USAGE = "PYTHONPATH=tests python -m arm FOLDER [WHAT PYTEST TAKES]"


def main() -> int:
    """The worst exit code of the runs."""
    if len(sys.argv) < 2:
        raise SystemExit(USAGE)
    refuse_elsewhere()
    folder, options = Path(sys.argv[1]).resolve(), sys.argv[2:]
    begun_s = time.monotonic()
    with ThreadPoolExecutor(1) as other:
        pythons = other.submit(prepare, folder / "machine")
        hand_over(folder / "bundles")
    said = [f"set up: {time.monotonic() - begun_s:.0f} s"]
    codes = []
    for machine in MACHINES:
        start_s, name = time.monotonic(), f"{machine.processor} with ONNX Runtime {machine.onnxruntime}"
        print(f"aarch64, {name}", flush=True)
        codes.append(run(machine, pythons.result()[machine.onnxruntime], folder, options))
        said.append(f"{name}: {time.monotonic() - start_s:.0f} s")
    print(f"{', '.join(said)}, together {(time.monotonic() - begun_s) / 60:.1f} minutes")
    return max(codes)


def run(machine: Machine, python: Path, folder: Path, options: list[str]) -> int:
    """pytest on the emulated machine; its exit code."""
    # The device has its own packages alone: of the project what lies in its environment, and the tests.
    command = [python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-o", "pythonpath=tests"]
    command += ["-m", "not long", "--hypothesis-profile=few"]
    environment = {**os.environ, "BALCONY_MADE": str(folder / "bundles"), PROCESSOR: machine.processor}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    environment.pop("PYTHONPATH", None)
    return subprocess.run([*command, *options, *machine.tests], cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
