"""The CPU's name is what Linux knows of it: a name on x86-64, numbers on ARM."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from bench.cpu_info import cpu_name

X86_64 = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 9654\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd4f\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(X86_64, "AMD EPYC 9654"), (ARM, "aarch64 0x41 0xd4f"), ("", "aarch64"), (None, "aarch64")],
    ids=["x86-64", "arm", "nothing known", "no file"],
)
def test_the_cpu_is_named(text: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    name, _, cores = cpu_name(file).rpartition(", ")
    assert (name, cores.endswith(" cores")) == (expected, True)
