"""What does watching the device cost?

    python benchmarks/telemetry.py [--seconds 15] [--boards agx-orin,thinkpad]

For this machine and for each board's files (those of the tests): the CPU time of the sampler's thread at its default
rates, as a share of one core, and the time of one look at the snapshot. The bounds are 1 % and 1 µs. The whole process
is charged to the sampler, less an equal time of idling measured in turn with it. Prints a table and, last, one JSON
document; the exit code is 1 if a bound is missed.

A board's files lie on a disk here: reading them costs the system calls but not the kernel's own work, such as the
6.6 ms that an INA3221 waits, asleep, for a conversion.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from balcony_edge.telemetry import Poller

ROOT = Path(__file__).resolve().parents[1]
LARGEST_SHARE, LONGEST_LOOK_US = 0.01, 1.0
LOOKS, PASSES = 100_000, 7


def busy_share(seconds: float) -> float:
    """CPU time of this process over ``seconds`` of sleeping, as a share of one core."""
    begun, used = time.monotonic(), time.process_time()
    time.sleep(seconds)
    return (time.process_time() - used) / (time.monotonic() - begun)


def look_us(sensors: Poller) -> float:
    """Microseconds of one ``snapshot``, the loop's own cost taken off: the median of several passes."""
    passes = []
    for _ in range(PASSES):
        begun = time.perf_counter()
        for _ in range(LOOKS):
            pass
        empty = time.perf_counter() - begun
        begun = time.perf_counter()
        for _ in range(LOOKS):
            sensors.snapshot  # noqa: B018
        passes.append((time.perf_counter() - begun - empty) / LOOKS * 1e6)
    return statistics.median(passes)


def measure(root: Path, seconds: float) -> dict[str, float | int]:
    """Shares and looks of one machine; rest and work take turns, three times."""
    shares = []
    for _ in range(3):
        idle = busy_share(seconds / 6)
        with Poller(root=root) as sensors:
            time.sleep(1.5)  # the first look imports and opens what the others find open
            shares.append(busy_share(seconds / 3) - idle)
    with Poller(root=root) as sensors:
        time.sleep(1.5)
        look = look_us(sensors)
        known = sum(reading.known for _, reading in sensors.snapshot)
    return {"core_share": max(0.0, statistics.median(shares)), "look_us": look, "known_signals": known}


def main() -> None:
    """Print the figures and whether the bounds hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="how long each machine is watched")
    parser.add_argument("--boards", default="agx-orin,thor,nano,thinkpad", help="boards of the tests, or none")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers.boards import BOARDS, Tree

    found = {"this machine": measure(Path("/"), options.seconds)}
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(None, options.boards.split(",")):
            found[name] = measure(Tree(Path(folder) / name).write(BOARDS[name]).root, options.seconds)
    print(f"{'files of':<16}{'share of a core':>16}{'look':>10}{'known signals':>15}")
    for name, figures in found.items():
        share, look = f"{figures['core_share']:.3%}", f"{figures['look_us']:.2f} µs"
        print(f"{name:<16}{share:>16}{look:>10}{figures['known_signals']:>15}")
    kept = all(
        figures["core_share"] <= LARGEST_SHARE and figures["look_us"] <= LONGEST_LOOK_US for figures in found.values()
    )
    bounds = {"core_share": LARGEST_SHARE, "look_us": LONGEST_LOOK_US}
    print(json.dumps({"benchmark": "telemetry", "machines": found, "bounds": bounds, "kept": kept}))
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
