"""Cores and memory that this process may use: the limits of its cgroups (v1 and v2) and its CPU affinity.

`os.cpu_count` and `/proc/meminfo` describe the whole machine, even inside a container. The container's limits are set
on its cgroup or an ancestor; the smallest one applies. No torch, no environment variables.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60  # cgroup v1 writes a number near 2**63 for no limit


@dataclass(frozen=True)
class Cores:
    """CPU time that this process may use.

    count: number of cores; a quota may be fractional.
    reason: where the number comes from, for the log.
    used_seconds: CPU time used so far by the cgroup with the quota; None without a quota or without accounting.
    """

    count: float
    reason: str
    used_seconds: float | None = None

    def threads(self, workers: int = 1) -> int:
        """Threads for one of `workers` processes that share these cores, rounded up to whole cores; at least 1."""
        return max(1, math.ceil(self.count) // workers)


@dataclass(frozen=True)
class Memory:
    """Memory limit and use, in bytes.

    total: the limit, or the machine's memory if that is less.
    used: without the page cache that the kernel reclaims first (inactive_file), as container tools report it.
    available: what can still be allocated, given that the kernel reclaims page cache.
    reason: where the total comes from, for the log.
    limited: the total is set by a cgroup, not by the machine.
    """

    total: int
    used: int
    available: int
    reason: str
    limited: bool


@dataclass(frozen=True)
class _Group:
    """A cgroup's directory. path: its path in the hierarchy, as visible to this process."""

    directory: Path
    path: str


class MachineLimits:
    """Reads the limits at each call, since an orchestrator may change them.

    root: the directory that holds proc/ and sys/. allowed_cores: the size of the CPU affinity mask; None: that of
    this process.
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
            held, cache = _memory_usage(group.directory)
            available = min(available, max(limit - held + cache, 0))
            if limit < tightest.total:
                reason = f"{name} of the cgroup {group.path} is {limit >> 20} MiB"
                tightest = Memory(limit, min(held, limit), available, reason, limited=True)
        return Memory(tightest.total, tightest.used, available, tightest.reason, tightest.limited)

    def own_memory(self) -> int:
        """Bytes of this process's anonymous memory, without mapped files."""
        fields = _fields(self._root / "proc/self/status", scale=1024)
        return fields.get("RssAnon:", fields.get("VmRSS:", 0))

    def memory_share(self, workers: int) -> Memory:
        """What one of `workers` processes may allocate: an equal share, which the others may not have used yet."""
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
    """The quota in cores, None without one, and the name of its file."""
    words = _text(directory / "cpu.max").split()  # v2: "QUOTA PERIOD" or "max PERIOD", microseconds
    name = "cpu.max"
    if not words:
        name = "cpu.cfs_quota_us"
        words = [_text(directory / name).strip(), _text(directory / "cpu.cfs_period_us").strip()]
    if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[0]) > 0 and int(words[1]) > 0:
        return int(words[0]) / int(words[1]), name
    return None, name


def _memory_limit(directory: Path) -> tuple[int, str]:
    """The limit in bytes, _UNLIMITED without one, and the name of its file or field."""
    limit = _number(directory / "memory.max")
    if limit is not None:
        return limit, "memory.max"
    limit = _number(directory / "memory.limit_in_bytes")
    # v1 reports the limit of all ancestors, including those that a container cannot see
    inherited = _fields(directory / "memory.stat").get("hierarchical_memory_limit", _UNLIMITED)
    if limit is None or inherited < limit:
        return min(inherited, _UNLIMITED), "hierarchical_memory_limit"
    return min(limit, _UNLIMITED), "memory.limit_in_bytes"


def _memory_usage(directory: Path) -> tuple[int, int]:
    """Bytes in use without inactive_file, and the part of them that is reclaimable page cache (active_file)."""
    used = _number(directory / "memory.current")
    if used is None:
        used = _number(directory / "memory.usage_in_bytes") or 0
    stat = _fields(directory / "memory.stat")
    inactive, active = (stat.get(f"total_{name}", stat.get(name, 0)) for name in ("inactive_file", "active_file"))
    held = max(used - inactive, 0)
    return held, min(active, held)


# ---- cgroup directories


def _groups(root: Path, controller: str) -> list[_Group]:
    """This process's cgroup in a controller's hierarchy and its ancestors, up to the highest that is mounted."""
    found: list[_Group] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        version = 2 if (number, controllers) == ("0", "") else 1
        if version == 1 and controller not in controllers.split(","):
            continue
        for mount_root, mount_point in _mounts(root, version, controller):
            found.extend(_ancestors(root / mount_point.lstrip("/"), _relative_path(path, mount_root)))
    return found


def _relative_path(path: str, mount_root: str) -> str:
    """A cgroup's path relative to a mount, whose root may be the container's own cgroup."""
    if mount_root == "/":
        relative = path
    elif path == mount_root or path.startswith(f"{mount_root}/"):
        relative = path[len(mount_root) :]
    else:
        relative = "/"
    return "/" if ".." in relative.split("/") else relative  # a cgroup outside of the cgroup namespace


def _ancestors(mount_point: Path, path: str) -> Iterator[_Group]:
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts), -1, -1):
        directory = mount_point.joinpath(*parts[:depth])
        if directory.is_dir():
            yield _Group(directory, "/" + "/".join(parts[:depth]))


def _mounts(root: Path, version: int, controller: str) -> Iterator[tuple[str, str]]:
    """(root in the hierarchy, mount point) of each mount of a controller."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if not separator or len(fields) < 5 or len(kind) < 3:
            continue
        matches = kind[0] == "cgroup" and controller in kind[2].split(",") if version == 1 else kind[0] == "cgroup2"
        if matches:
            yield _unescape(fields[3]), _unescape(fields[4])


def _unescape(path: str) -> str:
    """Undo the octal escapes of mountinfo, such as \\040 for a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


# ---- kernel files


def _text(path: Path) -> str:
    """The file's content; empty if it does not exist or cannot be read."""
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
    """Parse lines of a name and a number."""
    words = (line.split() for line in _text(path).splitlines())
    return {each[0]: int(each[1]) * scale for each in words if len(each) >= 2 and each[1].isdigit()}
