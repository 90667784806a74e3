"""What an export takes: seconds, peak memory and bytes on disk against the checkpoint's.

    python benchmarks/export_cost.py [--model FOLDER] [--shape smollm2-135m] [--precision int4] [--whole]

``--model`` adds a checkpoint of your own, a folder or a GGUF file; without any option: the random shapes of
benchmarks/shapes.py at every precision. Each export (exits "init" at a quarter, half and three quarters, no
verification) runs in a process of its own: seconds count its imports too, and the peak of resident memory counts
everything, mapped pages of the checkpoint included. ``--whole``: the command as a user gives it where only the [export]
extra is installed, without exits, with the check at its end; torch, transformers and optimum cannot be imported then.
``--whole calibrated`` rounds for text that the base writes first.
Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from shapes import SHAPES, make

PRECISIONS = ("fp32", "fp16", "int8", "int4")
CHILD = """
import json, resource, sys, time
from pathlib import Path

begun = time.perf_counter()
from balcony_export.bundling.writer import export_bundle
from balcony_export.graphs.formats import ExportOptions
from balcony_export.model.download import resolve

options = ExportOptions(precision=sys.argv[3])
export_bundle(resolve(sys.argv[1]), Path(sys.argv[2]), model="m", exits="init", options=options)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": time.perf_counter() - begun, "peak_rss_bytes": peak}))
"""
WHOLE = """
import json, resource, sys, time

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("accelerate", "onnxscript", "optimum", "torch", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
begun = time.perf_counter()
from balcony_edge.cli.app import main

rounded = ["--precision", sys.argv[3], "--rounding", sys.argv[4]]
sys.argv = ["balcony-edge", "export", sys.argv[1], "-o", sys.argv[2], *rounded]
try:
    main()
except SystemExit as ended:
    if ended.code:
        raise
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": time.perf_counter() - begun, "peak_rss_bytes": peak}))
"""


def measure(folder: Path, precision: str, parent: Path, whole: str | None) -> dict[str, float]:
    """Figures of one export; the bundle is deleted. ``whole``: how the whole command rounds; None: no command."""
    weights = [folder] if folder.is_file() else list(folder.glob("*.safetensors"))
    with tempfile.TemporaryDirectory(dir=parent) as work:
        out = Path(work) / "bundle"
        command = [sys.executable, "-c", WHOLE if whole else CHILD, str(folder), str(out), precision, whole or ""]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        size = sum(path.stat().st_size for path in out.iterdir())
        checkpoint = sum(path.stat().st_size for path in weights)
        largest = max(path.stat().st_size for path in weights)
    return {
        **json.loads(answer.splitlines()[-1]),
        "bundle_bytes": size,
        "checkpoint_bytes": checkpoint,
        "largest_shard_bytes": largest,
    }


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", default=[])
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--precision", choices=PRECISIONS, action="append")
    parser.add_argument("--whole", choices=("nearest", "calibrated"), nargs="?", const="nearest")
    parser.add_argument("--folder", type=Path, default=Path("runs/shapes"))
    arguments = parser.parse_args()
    shapes = arguments.shape or ([] if arguments.model else list(SHAPES))
    folders = [*arguments.model, *(make(shape, arguments.folder) for shape in shapes)]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    print(f"{'model':16}{'precision':>10}{'seconds':>9}{'peak RSS':>10}{'limit':>10}{'bundle':>10}{'÷ checkpoint':>14}")
    for folder in folders:
        for precision in arguments.precision or PRECISIONS:
            found = measure(folder, precision, arguments.folder, arguments.whole)
            rows.append({"model": folder.name, "precision": precision, **found})
            limit = found["largest_shard_bytes"] + 2e9
            sizes = (found["peak_rss_bytes"], limit, found["bundle_bytes"])
            cells = "".join(f"{size / 1e6:>8.0f}MB" for size in sizes)
            ratio = found["bundle_bytes"] / found["checkpoint_bytes"]
            print(f"{folder.name:16}{precision:>10}{found['seconds']:9.1f}{cells}{ratio:14.2f}", flush=True)
    print(json.dumps({"benchmark": "export_cost", "rows": rows, "machine": platform.machine()}))


if __name__ == "__main__":
    main()
