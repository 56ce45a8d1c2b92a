"""The smallest limit applies: of the cgroup, its ancestors, the machine and the affinity mask."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from engine import MachineLimits
from engine.machine_limits import Cores

from ..kernel_files import GIB, MIB, V2_MOUNT, KernelFiles, v1, v2

V1_NO_LIMIT = str((1 << 63) - 4096)


def test_without_cgroups_the_machine_is_the_limit(tmp_path: Path) -> None:
    limits = KernelFiles(tmp_path).limits(allowed_cores=6)
    memory = limits.memory()
    assert (memory.total, memory.used, memory.available) == (64 * GIB, 4 * GIB, 60 * GIB)
    assert not memory.limited
    assert limits.cores() == Cores(6, "6 cores are allowed to this process")


def test_missing_kernel_files_are_not_an_error(tmp_path: Path) -> None:
    limits = MachineLimits(tmp_path / "nowhere", allowed_cores=3)
    assert limits.cores().count == 3
    assert limits.memory().available == 0
    assert limits.own_memory() == 0


def test_v2_limits_of_the_own_cgroup(tmp_path: Path) -> None:
    files = v2(tmp_path)
    files.group(
        V2_MOUNT,
        memory__max=str(4 * GIB),
        memory__current=str(3 * GIB),
        memory__stat=f"anon {GIB}\ninactive_file {GIB}\nactive_file {512 * MIB}",
        cpu__max="150000 100000",
        cpu__stat="usage_usec 2500000\nuser_usec 1",
    )
    memory, cores = files.limits().memory(), files.limits().cores()
    assert (memory.total, memory.used, memory.limited) == (4 * GIB, 2 * GIB, True)
    assert memory.available == 2 * GIB + 512 * MIB  # the kernel reclaims active_file too
    assert memory.reason == "memory.max of the cgroup / is 4096 MiB"
    assert (cores.count, cores.used_seconds) == (1.5, 2.5)
    assert cores.reason == "cpu.max of the cgroup / is 1.5 cores"


def test_v2_without_limits(tmp_path: Path) -> None:
    files = v2(tmp_path, "/a")
    files.group(f"{V2_MOUNT}/a", memory__max="max", memory__current=str(GIB), cpu__max="max 100000")
    assert not files.limits().memory().limited
    assert files.limits().cores().count == 16


@pytest.mark.parametrize(("inner", "outer", "expected"), [(2, 8, "/pod/container"), (8, 2, "/pod")])
def test_the_smallest_limit_of_the_ancestors_applies(tmp_path: Path, inner: int, outer: int, expected: str) -> None:
    files = v2(tmp_path, "/pod/container")
    for path, size in (("/pod", outer), ("/pod/container", inner)):
        files.group(
            V2_MOUNT + path, memory__max=str(size * GIB), memory__current=str(GIB), cpu__max=f"{size}00000 100000"
        )
    memory, cores = files.limits().memory(), files.limits().cores()
    assert memory.total == 2 * GIB
    assert f"of the cgroup {expected} is" in memory.reason
    assert cores.count == 2
    assert f"of the cgroup {expected} is" in cores.reason


def test_a_full_ancestor_limits_the_available_memory(tmp_path: Path) -> None:
    files = v2(tmp_path, "/pod/container")
    files.group(f"{V2_MOUNT}/pod", memory__max=str(8 * GIB), memory__current=str(8 * GIB - 100 * MIB))
    files.group(f"{V2_MOUNT}/pod/container", memory__max=str(2 * GIB), memory__current=str(GIB))
    memory = files.limits().memory()
    assert (memory.total, memory.used, memory.available) == (2 * GIB, GIB, 100 * MIB)


def test_limits_beyond_the_machine_are_ignored(tmp_path: Path) -> None:
    files = v2(tmp_path)
    files.group(V2_MOUNT, memory__max=str(100 * GIB), memory__current="1", cpu__max="9900000 100000")
    assert not files.limits().memory().limited
    assert files.limits().memory().total == 64 * GIB
    assert files.limits().cores() == Cores(16, "16 cores are allowed to this process")


def test_the_affinity_mask_applies_if_it_is_smaller_than_the_quota(tmp_path: Path) -> None:
    files = v2(tmp_path)
    files.group(V2_MOUNT, cpu__max="400000 100000")
    assert files.limits(allowed_cores=2).cores().count == 2
    assert files.limits(allowed_cores=8).cores().count == 4


def test_v1_limits_of_a_container_that_sees_only_its_own_cgroups(tmp_path: Path) -> None:
    files = v1(tmp_path, "/docker/4f", mount_root="/docker/4f")
    files.group(
        f"{V2_MOUNT}/memory",
        memory__limit_in_bytes=str(2 * GIB),
        memory__usage_in_bytes=str(GIB),
        memory__stat=f"inactive_file 1\ntotal_inactive_file {256 * MIB}\ntotal_active_file 0\n"
        f"hierarchical_memory_limit {2 * GIB}",
    )
    files.group(
        f"{V2_MOUNT}/cpu,cpuacct", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000", cpuacct__usage="3000000000"
    )
    memory, cores = files.limits().memory(), files.limits().cores()
    assert (memory.total, memory.used) == (2 * GIB, 768 * MIB)
    assert "memory.limit_in_bytes" in memory.reason
    assert (cores.count, cores.used_seconds) == (0.5, 3.0)
    assert "cpu.cfs_quota_us" in cores.reason


def test_v1_without_limits(tmp_path: Path) -> None:
    files = v1(tmp_path, "/session")
    files.group(f"{V2_MOUNT}/memory/session", memory__limit_in_bytes=V1_NO_LIMIT, memory__usage_in_bytes="5")
    files.group(f"{V2_MOUNT}/cpu,cpuacct/session", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert not files.limits().memory().limited
    assert files.limits().cores().count == 16


def test_v1_reports_limits_of_invisible_ancestors(tmp_path: Path) -> None:
    files = v1(tmp_path, "/pod/4f", mount_root="/pod/4f")
    files.group(
        f"{V2_MOUNT}/memory",
        memory__limit_in_bytes=V1_NO_LIMIT,
        memory__usage_in_bytes="0",
        memory__stat=f"hierarchical_memory_limit {3 * GIB}",
    )
    assert files.limits().memory().total == 3 * GIB
    assert "hierarchical_memory_limit" in files.limits().memory().reason


def test_both_cgroup_versions_together(tmp_path: Path) -> None:
    files = KernelFiles(tmp_path)
    files.place("4:memory:/m", "0::/u")
    files.mount("cgroup", "rw,memory", "/sys/fs/cgroup/memory")
    files.mount("cgroup2", "rw", "/sys/fs/cgroup/unified")
    files.group("/sys/fs/cgroup/memory/m", memory__limit_in_bytes=str(GIB), memory__usage_in_bytes="0")
    files.group("/sys/fs/cgroup/unified/u", cpu__max="300000 100000")
    assert files.limits().memory().total == GIB
    assert files.limits().cores().count == 3


@pytest.mark.parametrize("path", ["/../elsewhere", "/gone/since"])
def test_a_cgroup_outside_of_the_mount_uses_the_mounted_root(tmp_path: Path, path: str) -> None:
    files = v2(tmp_path, path)
    files.group(V2_MOUNT, memory__max=str(GIB), memory__current="0")
    assert files.limits().memory().total == GIB


def test_a_mount_point_with_a_space(tmp_path: Path) -> None:
    files = KernelFiles(tmp_path)
    files.place("0::/")
    files.mount("cgroup2", "rw", "/my\\040groups")
    files.group("/my groups", cpu__max="100000 100000")
    assert files.limits().cores().count == 1


@pytest.mark.parametrize("text", ["", "nonsense", "0 100000", "-1 100000", "100000 0", "100000"])
def test_an_invalid_quota_is_ignored(tmp_path: Path, text: str) -> None:
    files = v2(tmp_path)
    files.group(V2_MOUNT, cpu__max=text)
    assert files.limits().cores().count == 16


@pytest.mark.parametrize(
    ("count", "workers", "threads"),
    [(0.5, 1, 1), (1.0, 1, 1), (1.5, 1, 2), (4, 1, 4), (4, 2, 2), (4, 3, 1), (2, 8, 1), (0.1, 8, 1), (7.2, 2, 4)],
)
def test_threads_are_whole_numbers_shared_by_workers(count: float, workers: int, threads: int) -> None:
    assert Cores(count, "").threads(workers) == threads


def test_limits_are_read_at_each_call(tmp_path: Path) -> None:
    files = v2(tmp_path)
    files.group(V2_MOUNT, memory__max="max", memory__current="0")
    limits = files.limits()
    assert not limits.memory().limited
    for size in (8, 2):
        files.group(V2_MOUNT, memory__max=str(size * GIB), memory__current="0")
        assert limits.memory().total == size * GIB


def test_a_workers_share_of_memory_excludes_what_it_uses(tmp_path: Path) -> None:
    files = v2(tmp_path)
    files.group(V2_MOUNT, memory__max=str(8 * GIB), memory__current=str(GIB))
    own = 300 * MIB  # as in its status file
    assert files.limits().memory_share(1) == files.limits().memory()
    share = files.limits().memory_share(4)
    assert (share.total, share.available) == (2 * GIB, 2 * GIB - own)
    files.group(V2_MOUNT, memory__current=str(8 * GIB - 10 * MIB))
    assert files.limits().memory_share(4).available == 10 * MIB  # the others use more than their share
    assert "for 4 workers" in share.reason


# ---- real cgroups, where they can be created

_PROGRAM = """
import sys
sys.stdin.readline()
from engine import MachineLimits
limits = MachineLimits()
print(limits.cores().count, limits.memory().total, limits.memory().limited, limits.memory().used > 0)
"""


def _controllers() -> list[tuple[Path, dict[str, str]]]:
    """The parent directory of a new cgroup for each limit, and the files to write into it."""
    base = Path("/sys/fs/cgroup")
    quota, size = {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}, str(512 * MIB)
    if (base / "cgroup.subtree_control").is_file():
        return [(base, {"memory.max": size, "cpu.max": "50000 100000"})]
    return [(base / "cpu", quota), (base / "memory", {"memory.limit_in_bytes": size})]


@contextmanager
def _real_groups() -> Iterator[list[Path]]:
    created: list[Path] = []
    try:
        for parent, files in _controllers():
            group = parent / f"csm-serve-test-{os.getpid()}"
            group.mkdir()
            created.append(group)
            for name, text in files.items():
                (group / name).write_text(text)
    except OSError as error:
        for group in created:
            group.rmdir()
        pytest.skip(f"no cgroup with limits can be created here: {error}")
    try:
        yield created
    finally:
        for group in created:
            with suppress(OSError):
                group.rmdir()


def test_a_process_in_a_real_cgroup_reads_its_limits() -> None:
    with _real_groups() as groups:
        ran = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for group in groups:
            (group / "cgroup.procs").write_text(str(ran.pid))
        output, _ = ran.communicate("go\n", timeout=110)
    assert output.split() == ["0.5", str(512 * MIB), "True", "True"]
