"""Runs the examples of docs/clients.md unchanged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.shared import KEY, Server, serving
from tests.tools import need

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "clients.md"
# Stand-ins for programs that are not on every machine.
EXTERNAL_PROGRAMS = {"llm": "echo Once upon a time. The end.", "ffplay": "exec cat > played.wav"}


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("service")) as started:
        yield started


@pytest.fixture
def work_dir(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "bin"
    programs.mkdir()
    command = f'PYTHONPATH={ROOT} exec {sys.executable} -m app.cli.main "$@"'
    for name, script in {**EXTERNAL_PROGRAMS, "csm-serve": command}.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("CSM_URL", server.url)
    monkeypatch.setenv("API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_shell_examples_write_the_files_they_name(work_dir: Path) -> None:
    need("curl")
    _, *scripts = examples("sh")  # the first sets variables that the fixture has set
    subprocess.run(["sh", "-ec", "\n".join(scripts)], check=True, timeout=100)
    made = {name for script in scripts for name in re.findall(r"-o (\w+\.\w+)", script)}
    assert made == {path.name for path in work_dir.iterdir()} - {"bin", "played.wav"}
    assert all((work_dir / name).stat().st_size > 1000 for name in [*made, "played.wav"])


@pytest.mark.parametrize("source", examples("python"))
def test_python_examples_run(source: str, work_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in re.findall(r'add_voice\("([^"]+)"', source):
        shutil.copy(ROOT / "models" / "csm-mini" / "voices" / "anna.wav", work_dir / name)
    exec(compile(source, str(PAGE), "exec"), {"__name__": "__main__"})
    output = capfd.readouterr().out
    files = [path for path in work_dir.iterdir() if path.is_file()]
    assert output or files
    assert "incomplete" not in output
    assert "retry in" not in output
    assert all(path.stat().st_size > 1000 for path in files)


@pytest.mark.parametrize("page", ["clients.md", "migrating.md"])
def test_linked_pages_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^):#]+)\)", text):
        assert (ROOT / "docs" / target).exists(), target
