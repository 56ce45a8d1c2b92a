"""How many cores and how much memory this process may use: the limits of its cgroups (v1 and v2) and its CPU affinity.

`os.cpu_count` and `/proc/meminfo` describe the whole machine, also inside a container. A limit of the container stands
in a cgroup, its own or one above it; the smallest limit on the way up holds. No torch, no environment.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60  # cgroup v1 writes a number near 2**63 where there is no limit


@dataclass(frozen=True)
class Cores:
    """Processor time that this process may use.

    count: in cores; a quota may be a fraction.
    reason: where the number comes from, for the log.
    used_seconds: processor time so far of the group with the quota; None if there is no quota, or no such figure.
    """

    count: float
    reason: str
    used_seconds: float | None = None

    def threads(self, workers: int = 1) -> int:
        """Threads for one of `workers` processes that share these cores: whole cores, rounded up, and 1 at least."""
        return max(1, math.ceil(self.count) // workers)


@dataclass(frozen=True)
class Memory:
    """In bytes.

    total: the limit, or the machine's memory if that is less.
    used: without the page cache that the kernel reclaims first (inactive_file), as container tools count.
    available: what may still be allocated, given that the kernel reclaims the page cache.
    reason: where the total comes from, for the log.
    limited: a cgroup sets the total, and not the machine.
    """

    total: int
    used: int
    available: int
    reason: str
    limited: bool


@dataclass(frozen=True)
class _Group:
    """A cgroup's directory. path: its name inside its hierarchy, as far as this process can see."""

    directory: Path
    path: str


class MachineLimits:
    """Reads the limits anew at each call, since an orchestrator may change them.

    root: the directory that holds proc/ and sys/. allowed_cores: the size of the CPU affinity mask; None asks the
    kernel for that of this process.
    """

    def __init__(self, root: Path = Path("/"), allowed_cores: int | None = None) -> None:
        self._root = root
        self._allowed_cores = allowed_cores
        self._cpu = _groups(root, "cpu")
        self._cpuacct = {group.path: group for group in _groups(root, "cpuacct")}
        self._memory = _groups(root, "memory")

    def cores(self) -> Cores:
        allowed = self._allowed_cores
        if allowed is None:
            allowed = len(os.sched_getaffinity(0))
        tightest = Cores(allowed, f"{allowed} cores are allowed to this process")
        for group in self._cpu:
            quota, name = _quota(group.directory)
            if quota is not None and quota < tightest.count:
                reason = f"{name} of the cgroup {group.path} is {quota:g} cores"
                tightest = Cores(quota, reason, self._used_seconds(group))
        return tightest

    def memory(self) -> Memory:
        machine = _fields(self._root / "proc/meminfo", scale=1024)
        total, available = machine.get("MemTotal:", 0), machine.get("MemAvailable:", 0)
        tightest = Memory(total, total - available, available, "this is the machine's memory", limited=False)
        for group in self._memory:
            limit, name = _memory_limit(group.directory)
            if limit >= total:
                continue
            held, cache = _memory_held(group.directory)
            available = min(available, max(limit - held + cache, 0))
            if limit < tightest.total:
                reason = f"{name} of the cgroup {group.path} is {limit >> 20} MiB"
                tightest = Memory(limit, min(held, limit), available, reason, limited=True)
        return Memory(tightest.total, tightest.used, available, tightest.reason, tightest.limited)

    def own_memory(self) -> int:
        """Bytes that this process alone holds: what it allocated, without the files that it maps."""
        fields = _fields(self._root / "proc/self/status", scale=1024)
        return fields.get("RssAnon:", fields.get("VmRSS:", 0))

    def memory_share(self, workers: int) -> Memory:
        """What one of `workers` processes may allocate. Each has the same part of the total, since the others may not
        have taken theirs yet."""
        memory = self.memory()
        if workers == 1:
            return memory
        total, own = memory.total // workers, self.own_memory()
        available = min(memory.available, max(total - own, 0))
        return Memory(total, own, available, f"{memory.reason}, for {workers} workers", memory.limited)

    def _used_seconds(self, group: _Group) -> float | None:
        usage = _fields(group.directory / "cpu.stat").get("usage_usec")
        if usage is not None:
            return usage / 1e6
        accounting = self._cpuacct.get(group.path)
        nanoseconds = None if accounting is None else _number(accounting.directory / "cpuacct.usage")
        return None if nanoseconds is None else nanoseconds / 1e9


def _quota(directory: Path) -> tuple[float | None, str]:
    """Cores, and the name of the file that says so."""
    words = _text(directory / "cpu.max").split()  # v2: "QUOTA PERIOD" or "max PERIOD", microseconds
    name = "cpu.max"
    if not words:
        name = "cpu.cfs_quota_us"
        words = [_text(directory / name).strip(), _text(directory / "cpu.cfs_period_us").strip()]
    if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[0]) > 0 and int(words[1]) > 0:
        return int(words[0]) / int(words[1]), name
    return None, name


def _memory_limit(directory: Path) -> tuple[int, str]:
    """Bytes, and the name of the file that says so; _UNLIMITED where there is no limit."""
    limit = _number(directory / "memory.max")
    if limit is not None:
        return limit, "memory.max"
    limit = _number(directory / "memory.limit_in_bytes")
    # v1 tells what the groups above allow, also those that a container cannot see.
    above = _fields(directory / "memory.stat").get("hierarchical_memory_limit", _UNLIMITED)
    if limit is None or above < limit:
        return min(above, _UNLIMITED), "hierarchical_memory_limit"
    return min(limit, _UNLIMITED), "memory.limit_in_bytes"


def _memory_held(directory: Path) -> tuple[int, int]:
    """Bytes in use without inactive_file, and the page cache among them that the kernel can reclaim too."""
    used = _number(directory / "memory.current")
    if used is None:
        used = _number(directory / "memory.usage_in_bytes") or 0
    stat = _fields(directory / "memory.stat")
    inactive, active = (stat.get(f"total_{name}", stat.get(name, 0)) for name in ("inactive_file", "active_file"))
    held = max(used - inactive, 0)
    return held, min(active, held)


# ---- where the groups are


def _groups(root: Path, controller: str) -> list[_Group]:
    """The groups of this process in the hierarchy of a controller, from its own up to the highest that is mounted."""
    found: list[_Group] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        version = 2 if (number, controllers) == ("0", "") else 1
        if version == 1 and controller not in controllers.split(","):
            continue
        for mount_root, mount_point in _mounts(root, version, controller):
            found.extend(_upwards(root / mount_point.lstrip("/"), _below(path, mount_root)))
    return found


def _below(path: str, mount_root: str) -> str:
    """A group's path as the mount has it. A container may see a mount whose root is its own group."""
    if mount_root == "/":
        inside = path
    elif path == mount_root or path.startswith(f"{mount_root}/"):
        inside = path[len(mount_root) :]
    else:
        inside = "/"
    return "/" if ".." in inside.split("/") else inside  # a group outside of the cgroup namespace


def _upwards(mount_point: Path, path: str) -> Iterator[_Group]:
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts), -1, -1):
        directory = mount_point.joinpath(*parts[:depth])
        if directory.is_dir():
            yield _Group(directory, "/" + "/".join(parts[:depth]))


def _mounts(root: Path, version: int, controller: str) -> Iterator[tuple[str, str]]:
    """(root inside the hierarchy, mount point) of each mount that shows a controller."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if not separator or len(fields) < 5 or len(kind) < 3:
            continue
        shows = kind[0] == "cgroup" and controller in kind[2].split(",") if version == 1 else kind[0] == "cgroup2"
        if shows:
            yield _unescaped(fields[3]), _unescaped(fields[4])


def _unescaped(path: str) -> str:
    """mountinfo writes a space as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


# ---- files of the kernel


def _text(path: Path) -> str:
    """The whole file; nothing if it is not there or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    if text == "max":
        return _UNLIMITED
    return int(text) if text.isdigit() else None


def _fields(path: Path, scale: int = 1) -> dict[str, int]:
    """Lines of a name and a number."""
    words = (line.split() for line in _text(path).splitlines())
    return {each[0]: int(each[1]) * scale for each in words if len(each) >= 2 and each[1].isdigit()}
