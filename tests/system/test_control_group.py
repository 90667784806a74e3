"""Control groups of version 1 and 2: of one's own, below another, in a container, and files that make no sense."""

from __future__ import annotations

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcony_edge.engine import runtime

# As imported, before the suite puts its own in its place.
from balcony_edge.engine.runtime import default_threads
from balcony_edge.errors import ProviderError
from balcony_edge.system.control_group import memory_left, processors

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 24 0:27 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 24 0:28 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
MB = 1 << 20
UNLIMITED = "9223372036854771712\n"


def reader(files: dict[str, str]) -> object:
    def read(path: str) -> str:
        if path in files:
            return files[path]
        raise FileNotFoundError(path)

    return read


def v2(own: str, **groups: dict[str, str]) -> object:
    """Files of version 2: ``groups`` by folder below the mount, with ``_`` for ``/``."""
    files = {"/proc/self/mountinfo": V2, "/proc/self/cgroup": f"0::{own}\n"}
    for folder, values in groups.items():
        inside = folder.strip("_").replace("_", "/")
        files |= {f"/sys/fs/cgroup/{inside + '/' if inside else ''}{name}": text for name, text in values.items()}
    return reader(files)


def v1(root: str, own: str, memory: dict[str, str], cpu: dict[str, str], inside: str = "") -> object:
    lines = [f"5:memory:{own}", f"4:cpu,cpuacct:{own}", "0::/"]
    files = {"/proc/self/mountinfo": V1.format(root=root), "/proc/self/cgroup": "\n".join(lines)}
    files |= {f"/sys/fs/cgroup/memory{inside}/{name}": text for name, text in memory.items()}
    files |= {f"/sys/fs/cgroup/cpu,cpuacct{inside}/{name}": text for name, text in cpu.items()}
    return reader(files)


@pytest.mark.parametrize(
    ("read", "left", "cores"),
    [
        (v2("/"), None, None),
        (v2("/", _={"memory.max": "max\n", "memory.current": "5\n", "cpu.max": "max 100000\n"}), None, None),
        (v2("/", _={"memory.max": str(100 * MB), "memory.current": str(40 * MB)}), 60 * MB, None),
        # Files that the kernel keeps in memory are not used memory.
        (
            v2(
                "/",
                _={
                    "memory.max": str(100 * MB),
                    "memory.current": str(90 * MB),
                    "memory.stat": f"anon 5\ninactive_file {50 * MB}\nactive_file {20 * MB}\nfile {80 * MB}\n",
                },
            ),
            80 * MB,
            None,
        ),
        (v2("/", _={"memory.max": "max", "memory.high": str(MB), "memory.current": "0"}), MB, None),
        (v2("/", _={"memory.max": str(MB), "memory.current": str(9 * MB)}), 0, None),
        # The tightest of one's own group and those above it counts.
        (
            v2(
                "/a/b",
                _a_b={"memory.max": str(50 * MB), "memory.current": "0", "cpu.max": "400000 100000"},
                _a={"memory.max": str(30 * MB), "memory.current": "0", "cpu.max": "150000 100000"},
            ),
            30 * MB,
            1.5,
        ),
        # A service: the limit is at its own group, and the top has none.
        (v2("/s.slice/x", **{"_s.slice_x": {"memory.max": str(MB), "memory.current": "0"}}), MB, None),
        (
            v1(
                "/",
                "/job",
                {"memory.limit_in_bytes": str(100 * MB), "memory.usage_in_bytes": str(70 * MB),
                 "memory.stat": f"inactive_file 1\ntotal_inactive_file {20 * MB}\ntotal_active_file {MB}\n"},
                {"cpu.cfs_quota_us": "200000\n", "cpu.cfs_period_us": "100000\n"},
                "/job",
            ),
            51 * MB,
            2.0,
        ),
        # In a container the mount shows its own group, and its path is the host's.
        (
            v1(
                "/docker/123",
                "/docker/123",
                {"memory.limit_in_bytes": str(100 * MB), "memory.usage_in_bytes": "0"},
                {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"},
            ),
            100 * MB,
            0.5,
        ),
        (
            v1(
                "/",
                "/docker/123",
                {"memory.limit_in_bytes": UNLIMITED, "memory.usage_in_bytes": "0"},
                {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"},
            ),
            None,
            None,
        ),
        (reader({"/sys/fs/cgroup/memory.max": str(MB), "/sys/fs/cgroup/memory.current": "0"}), MB, None),
        (reader({}), None, None),
    ],
)  # fmt: skip
def test_limits(read: object, left: int | None, cores: float | None) -> None:
    assert memory_left(read) == left  # type: ignore[arg-type]
    assert processors(read) == cores  # type: ignore[arg-type]


@given(st.dictionaries(st.sampled_from(["mountinfo", "cgroup", "max", "stat", "cpu"]), st.text(max_size=60)))
def test_nonsense_is_no_limit_and_no_error(texts: dict[str, str]) -> None:
    names = {
        "mountinfo": "/proc/self/mountinfo",
        "cgroup": "/proc/self/cgroup",
        "max": "/sys/fs/cgroup/memory.max",
        "stat": "/sys/fs/cgroup/memory.stat",
        "cpu": "/sys/fs/cgroup/cpu.max",
    }
    files = {"/proc/self/mountinfo": V2, "/proc/self/cgroup": "0::/\n"}
    read = reader(files | {names[name]: text for name, text in texts.items()})
    assert (memory_left(read) or 0) >= 0  # type: ignore[arg-type]
    assert (processors(read) or 1) > 0  # type: ignore[arg-type]


@pytest.mark.parametrize(("quota", "threads"), [(None, 4), (0.5, 1), (1.9, 1), (2.0, 2), (99.0, 4)])
def test_threads_follow_the_quota(monkeypatch: pytest.MonkeyPatch, quota: float | None, threads: int) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 4)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: list(range(8)))
    monkeypatch.setattr(runtime.control_group, "processors", lambda: quota)
    assert default_threads() == threads


@pytest.mark.parametrize("threads", [5000, 0, -1])
def test_threads_that_no_machine_can_use_are_refused(threads: int) -> None:
    with pytest.raises(ProviderError, match="processors"):
        runtime.Runtime.start("cpu", threads)
