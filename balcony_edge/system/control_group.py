"""What the control group of this process (a container) allows: memory and processor time, by cgroup version 1 or 2.

Each group up to the top may have a limit, and the tightest counts. What the kernel keeps of files in memory is given
back when it is needed, so it does not count as used.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from pathlib import Path

Read = Callable[[str], str]
"""Path → text of a file; raises OSError. A test gives its own."""

# cgroup 1 writes a limit of no pages less than 2^63 bytes where there is none.
UNLIMITED = 1 << 60


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")


def memory_left(read: Read = _read) -> int | None:
    """Bytes that this process's control groups still allow, not below 0; None without a limit."""
    left = [
        limit - _memory_used(read, folder)
        for version, folder in _groups(read, "memory")
        if (limit := _memory_limit(read, folder, version)) is not None
    ]
    return max(0, min(left)) if left else None


def processors(read: Read = _read) -> float | None:
    """How many processors' time the control groups allow, such as 1.5; None without a limit."""
    quotas = [quota for version, folder in _groups(read, "cpu") if (quota := _quota(read, folder, version)) is not None]
    return min(quotas, default=None)


def _memory_limit(read: Read, folder: str, version: int) -> int | None:
    names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
    limits = [number for name in names if (number := _number(read, f"{folder}/{name}")) is not None]
    return min((limit for limit in limits if limit < UNLIMITED), default=None)


def _memory_used(read: Read, folder: str) -> int:
    used = _number(read, f"{folder}/memory.current")
    if used is None:
        used = _number(read, f"{folder}/memory.usage_in_bytes")
    # Version 1 has the sums over a group's own groups under names of their own.
    fields = _fields(read, f"{folder}/memory.stat")
    cached = sum(fields.get(f"total_{name}", fields.get(name, 0)) for name in ("inactive_file", "active_file"))
    return max(0, (used or 0) - cached)


def _quota(read: Read, folder: str, version: int) -> float | None:
    try:
        if version == 2:
            quota, period = read(f"{folder}/cpu.max").split()
        else:
            quota, period = read(f"{folder}/cpu.cfs_quota_us"), read(f"{folder}/cpu.cfs_period_us")
        share = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None


def _number(read: Read, path: str) -> int | None:
    try:
        return int(read(path))
    except (OSError, ValueError):
        return None


def _fields(read: Read, path: str) -> dict[str, int]:
    try:
        pairs = [line.split() for line in read(path).splitlines()]
    except OSError:
        return {}
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _groups(read: Read, controller: str) -> Iterator[tuple[int, str]]:
    """The folders of this process's groups for a controller, from its own to the top: (cgroup version, folder)."""
    try:
        mounts = list(_mounts(read("/proc/self/mountinfo"), controller))
        lines = [line.split(":", 2) for line in read("/proc/self/cgroup").splitlines()]
    except OSError:
        yield 2, "/sys/fs/cgroup"  # where it always is in a container
        return
    for version, root, point in mounts:
        for fields in lines:
            names = fields[1].split(",") if len(fields) == 3 else []
            if (version == 1 and controller in names) or (version == 2 and names == [""]):
                yield from ((version, folder) for folder in _upwards(fields[2], root, point))


def _mounts(text: str, controller: str) -> Iterator[tuple[int, str, str]]:
    """The mounts of control groups in mountinfo: (cgroup version, which group is mounted, where)."""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            yield 2, fields[3], fields[4]
        elif kind[0] == "cgroup" and controller in kind[2].split(","):
            yield 1, fields[3], fields[4]


def _upwards(path: str, root: str, point: str) -> Iterator[str]:
    """The folders of a group and those above it, below the mount ``point`` that shows the group ``root``.

    In a container the mount shows the container's group, while its path may be the host's.
    """
    inside = posixpath.relpath(path, root) if path == root or path.startswith(root.rstrip("/") + "/") else "."
    while inside not in (".", ""):
        yield f"{point}/{inside}"
        inside = posixpath.dirname(inside)
    yield point
