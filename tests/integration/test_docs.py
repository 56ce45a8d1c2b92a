"""Runs the examples of the documentation, and of the package csm-serve-client built alone, unchanged."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest
from csm_serve_client import CsmClient
from packaging.requirements import Requirement

from tests.integration.shared import KEY, Server, serving
from tests.tools import need

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients" / "python"
PAGES = sorted((ROOT / "docs" / "clients").glob("*.md"))
# Stand-ins for programs that are not on every machine.
EXTERNAL_PROGRAMS = {"llm": "echo Once upon a time. The end.", "ffplay": "exec cat > played.wav"}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language, without the indentation of a list."""
    pattern = rf"^( *)```{language}\n(.*?)^\1```$"
    found = re.finditer(pattern, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(each[2]) for each in found]


def examples(language: str) -> list[tuple[str, str]]:
    """(page, source) of every block in a language; those of the overview come first."""
    return [(page.stem, source) for page in PAGES for source in blocks(page, language)]


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
    _, *scripts = [source for _, source in examples("sh")]  # the first sets variables that the fixture has set
    subprocess.run(["sh", "-ec", "\n".join(scripts)], check=True, timeout=100)
    made = {name for script in scripts for name in re.findall(r"(?:-o|--subtitles) (\w+\.\w+)", script)}
    assert made == {path.name for path in work_dir.iterdir()} - {"bin", "played.wav"}
    sizes = {name: (work_dir / name).stat().st_size for name in [*made, "played.wav"]}
    assert all(size > (1000 if Path(name).suffix != ".srt" else 40) for name, size in sizes.items()), sizes


@pytest.mark.parametrize(("page", "source"), examples("python"), ids=[page for page, _ in examples("python")])
def test_python_examples_run(page: str, source: str, work_dir: Path) -> None:
    for name in re.findall(r'add_voice\("([^"]+)"', source):
        shutil.copy(ROOT / "models" / "csm-mini" / "voices" / "anna.wav", work_dir / name)
    ran = subprocess.run(
        [sys.executable, "-"],
        input=source,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{CLIENT}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    files = [path for path in work_dir.iterdir() if path.is_file()]
    assert ran.stdout or files
    assert "incomplete" not in ran.stdout
    assert "retry in" not in ran.stdout
    assert all(path.stat().st_size > 1000 for path in files)


def test_every_page_is_in_the_overview() -> None:
    overview = PAGES[0].read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"]({page.name})" not in overview] == []
    assert {page for page, _ in examples("python")} == {
        *("elevenlabs", "livekit", "openai", "pipecat", "python", "websocket")
    }


# ---- the other pages

# Pages with commands of curl for a service at $URL or localhost:8000.
CURL_PAGES = ("README.md", "docs/api.md", "docs/deployment.md", "docs/monitoring.md", "docs/text.md")
# Every status that is an error ends a command.
_FAILING = 'curl() { command curl --fail "$@"; }'
# What runs a piece of a program: the names that it takes from around it, and `await` outside of a function.
_PIECE = """
import ast, asyncio, inspect, sys
from elevenlabs import ElevenLabs
from openai import OpenAI
heard = []
names = {"ElevenLabs": ElevenLabs, "OpenAI": OpenAI, "KEY": KEY, "API_KEY": KEY, "play": heard.append}
for source in PIECES:
    code = compile(source, "<documentation>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.iscoroutine(result):
        asyncio.run(result)
assert len(names["mp3"]) > 1000 and heard
"""


def commands(page: str) -> list[str]:
    """The commands of curl and csm-serve that a page runs against a service of this machine."""
    found = []
    for block in blocks(ROOT / page, "(?:console|bash)"):
        shown = "\n".join(re.findall(r"^\$ (.*)$", block, re.MULTILINE)) or block  # else it shows their output as well
        parts = re.split(r"^(?=curl |(?:\.venv/bin/)?csm-serve )", shown, flags=re.MULTILINE)
        found += [each for each in parts if re.match(r"curl .*(?:\$URL|localhost:8000)", each, re.DOTALL)]
    return found


@pytest.mark.parametrize("page", CURL_PAGES)
def test_the_commands_of_curl_work(page: str, server: Server, work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("curl")
    monkeypatch.setenv("URL", server.url)
    for name in ("amy.wav", "better.wav"):
        shutil.copy(ROOT / "models" / "csm-mini" / "voices" / "anna.wav", work_dir / name)
    found = commands(page)
    assert found
    for command in found:
        with CsmClient(server.url, KEY) as client:
            known = "amy.wav" in client.voices()
            if "-F file=@" in command and "-X PUT" not in command and known:
                client.delete_voice("amy.wav")
            elif not known:
                client.add_voice("amy.wav", voice_id="amy.wav")
        local = command.replace("localhost:8000", server.url)
        ran = subprocess.run(["sh", "-ec", f"{_FAILING}\n{local}"], capture_output=True, timeout=100, check=False)
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
        for name in re.findall(r"-o (\w+\.\w+)", command):
            assert (work_dir / name).stat().st_size > 1000, command


def test_the_pieces_of_programs_work(server: Server, work_dir: Path) -> None:
    pages = [ROOT / "docs" / "api.md", ROOT / "docs" / "conversation.md"]
    pieces = [piece for page in pages for piece in blocks(page, "python")]
    pieces = [re.sub(r"http://(?:localhost|127\.0\.0\.1):8000", server.url, piece) for piece in pieces]
    with CsmClient(server.url, KEY) as client:
        if "amy.wav" not in client.voices():  # another test may have left it
            client.add_voice(ROOT / "models" / "csm-mini" / "voices" / "anna.wav", voice_id="amy.wav")
    ran = subprocess.run(
        [sys.executable, "-c", f"KEY = {KEY!r}\nPIECES = {pieces!r}\n{_PIECE}"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert (work_dir / "hello.mp3").stat().st_size > 1000


# ---- clients/python


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the package installed from its wheel, and links to what it requires."""
    folder = tmp_path_factory.mktemp("client")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "csm_serve_client"):
        (source / name).symlink_to(CLIENT / name)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(folder / "site"), str(source)], check=True, timeout=110)
    (metadata,) = (folder / "site").glob("csm_serve_client-*.dist-info/METADATA")
    waiting = re.findall(r"^Requires-Dist: ([\w.-]+)", metadata.read_text(encoding="utf-8"), re.MULTILINE)
    linked = set()
    while waiting:
        name = waiting.pop()
        if name not in linked:
            linked.add(name)
            for path in {
                each.parts[0] for each in distribution(name).files or [] if each.parts[0] not in ("..", "__pycache__")
            }:
                (folder / "site" / path).symlink_to(Path(str(distribution(name).locate_file(path))))
            requirements = [Requirement(line) for line in requires(name) or []]
            waiting += [
                each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
    return folder / "site"


def test_its_version_is_the_service_s() -> None:
    project, client = (tomllib.loads((folder / "pyproject.toml").read_text("utf-8")) for folder in (ROOT, CLIENT))
    assert client["project"]["version"] == project["project"]["version"]


def test_its_wheel_speaks_without_the_service_s_packages(site: Path, server: Server, tmp_path: Path) -> None:
    example = re.findall(r"```python\n(.*?)```", (CLIENT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    program = f"""
import json, sys
sys.path = [path for path in sys.path if "site-packages" not in path] + [{str(site)!r}]
{example}
with CsmClient() as client, client.converse(voice_id="speaker_0") as talk:
    pass
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    (tmp_path / ".env").write_text(f"API_KEY={KEY}\nPORT={server.port}\n", encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-I", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "speech.wav").read_bytes()[:4] == b"RIFF"
    assert "bytes" in ran.stdout
    loaded = set(json.loads(ran.stdout.splitlines()[-1]))
    assert {"csm_serve_client", "httpx", "websockets"} <= loaded
    assert not loaded & {"app", "engine", "torch", "fastapi", "numpy", "pydantic"}
