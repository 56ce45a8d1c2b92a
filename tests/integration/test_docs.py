"""The examples of docs/clients.md, as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.shared import KEY, Server, serving
from tests.tools import need

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "clients.md"
# What is not ours, and not on every machine.
STRANGERS = {"llm": "echo Once upon a time. The end.", "ffplay": "exec cat > heard.wav"}


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("service")) as started:
        yield started


@pytest.fixture
def here(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "bin"
    programs.mkdir()
    command = f'PYTHONPATH={ROOT} exec {sys.executable} -m app.cli.main "$@"'
    for name, script in {**STRANGERS, "csm-serve": command}.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("CSM_URL", server.url)
    monkeypatch.setenv("API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_shell_examples_make_what_they_say(here: Path) -> None:
    need("curl")
    _, *scripts = examples("sh")  # the first sets what is set here already
    subprocess.run(["sh", "-ec", "\n".join(scripts)], check=True, timeout=100)
    made = {name for script in scripts for name in re.findall(r"-o (\w+\.\w+)", script)}
    assert made == {path.name for path in here.iterdir()} - {"bin", "heard.wav"}
    assert all((here / name).stat().st_size > 1000 for name in [*made, "heard.wav"])


@pytest.mark.parametrize("source", examples("python"))
def test_the_python_examples_run(source: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    exec(compile(source, str(PAGE), "exec"), {"__name__": "__main__"})
    told = capfd.readouterr().out
    files = [path for path in here.iterdir() if path.is_file()]
    assert told or files
    assert "not whole" not in told
    assert "again in" not in told
    assert all(path.stat().st_size > 1000 for path in files)


@pytest.mark.parametrize("page", ["clients.md", "migrating.md"])
def test_every_page_that_is_named_is_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^):#]+)\)", text):
        assert (ROOT / "docs" / target).exists(), target
