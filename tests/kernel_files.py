"""The files in which the kernel tells of memory and cgroups, in a directory of the test's own."""

from __future__ import annotations

from pathlib import Path

from engine import MachineLimits

MIB, GIB = 1 << 20, 1 << 30
V2_MOUNT = "/sys/fs/cgroup"


class KernelFiles:
    """A machine with 64 GiB, 60 of them available, and no cgroups until some are written.

    cgroups: lines of /proc/self/cgroup. mounts: (root, mount point, type, options of the file system).
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._mounts: list[str] = ["22 1 0:21 / /proc rw - proc proc rw"]
        self.write(
            "proc/meminfo", f"MemTotal: {64 * GIB // 1024} kB\nMemAvailable: {60 * GIB // 1024} kB\nHugePages: 0\n"
        )
        self.write("proc/self/status", "Name:\tpython\nVmRSS:\t 400000 kB\nRssAnon:\t 307200 kB\n")
        self.write("proc/self/mountinfo", self._mounts[0])

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def place(self, *lines: str) -> None:
        """Say in which cgroups the process is."""
        self.write("proc/self/cgroup", "".join(f"{line}\n" for line in lines))

    def mount(self, kind: str, options: str, point: str, root: str = "/") -> None:
        self._mounts.append(f"30 22 0:28 {root} {point} rw,nosuid shared:4 - {kind} {kind} {options}")
        self.write("proc/self/mountinfo", "\n".join(self._mounts))

    def group(self, directory: str, **files: str) -> None:
        """A cgroup's files; __ in a name stands for a dot."""
        for name, text in files.items():
            self.write(f"{directory}/{name.replace('__', '.')}", f"{text}\n")

    def limits(self, allowed_cores: int = 16) -> MachineLimits:
        return MachineLimits(self.root, allowed_cores)


def v2(root: Path, path: str = "/") -> KernelFiles:
    """cgroup v2 alone, the process in the group `path`."""
    files = KernelFiles(root)
    files.place(f"0::{path}")
    files.mount("cgroup2", "rw,nsdelegate", V2_MOUNT)
    return files


def v1(root: Path, path: str = "/", mount_root: str = "/") -> KernelFiles:
    """cgroup v1: cpu and cpuacct in one hierarchy, memory in another."""
    files = KernelFiles(root)
    files.place(f"4:memory:{path}", f"2:cpu,cpuacct:{path}", "1:name=systemd:/")
    files.mount("cgroup", "rw,cpu,cpuacct", f"{V2_MOUNT}/cpu,cpuacct", mount_root)
    files.mount("cgroup", "rw,memory", f"{V2_MOUNT}/memory", mount_root)
    return files
