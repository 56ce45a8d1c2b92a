"""What `make test-fresh` and `make test-image` decide before they build anything."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from app.routers.page import FOLDER
from scripts import test_fresh as fresh
from scripts import test_image as image
from scripts.try_service import files_named


def ended() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(timeout=60)
    return process


@pytest.mark.parametrize("script", [fresh, image])
def test_without_root_it_says_so_and_builds_nothing(
    script: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["script"])
    assert script.main() == 2  # type: ignore[attr-defined]
    assert "cannot run here: it needs root" in capsys.readouterr().err


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None if name in ("mmdebstrap", "buildah") else f"/bin/{name}")
    assert str(fresh.missing()).startswith("mmdebstrap is not on PATH")
    assert str(image.missing()).startswith("buildah is not on PATH")


def no_debian(suite: str, mirror: str | None) -> Path:
    raise fresh.NoDebian(f"mmdebstrap cannot install {suite} (status 1)")


@pytest.mark.parametrize(("flags", "status", "word"), [([], 2, "Failed"), (["--if-possible"], 0, "Skipped")])
def test_where_no_debian_can_be_installed_it_may_be_skipped(
    flags: list[str],
    status: int,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fresh, "missing", lambda: None)
    monkeypatch.setattr(fresh, "HOMES", tmp_path)
    monkeypatch.setattr(fresh, "debian", no_debian)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["script", "--quick", *flags])
    assert fresh.main() == status
    said = capsys.readouterr()
    assert f"{word}: make test-fresh cannot run here: mmdebstrap cannot install trixie (status 1)" in said.err
    assert "Passed" not in said.out
    assert list(tmp_path.iterdir()) == []


def test_a_root_is_built_once_a_day_for_each_set_of_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[list[str]] = []

    def build(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        built.append(command)
        Path(command[command.index("trixie") + 1]).write_bytes(b"tar")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(fresh, "HOMES", tmp_path)
    monkeypatch.setattr(fresh, "apt_options", list)
    monkeypatch.setattr(subprocess, "run", build)
    monkeypatch.delenv("ARCH", raising=False)
    tar = fresh.debian("trixie", None)
    assert tar.read_bytes() == b"tar"
    assert (fresh.debian("trixie", None), len(built)) == (tar, 1)
    other = fresh.debian("trixie", "file:/mirror")
    assert (other != tar, built[1][-1]) == (True, "file:/mirror")
    yesterday = tar.rename(tar.with_name(tar.name.replace(str(date.today()), "2026-01-01")))
    assert fresh.debian("trixie", None) == tar
    assert set((tmp_path / "roots").iterdir()) == {tar, other}
    assert not yesterday.exists()
    monkeypatch.setenv("ARCH", "arm64")
    on_arm = fresh.debian("trixie", None)
    assert ("--architectures=arm64" in built[-1], "--architectures=arm64" in built[-2]) == (True, False)
    assert set((tmp_path / "roots").iterdir()) == {tar, other, on_arm}


def test_a_root_that_cannot_be_built_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        Path(command[command.index("trixie") + 1]).write_bytes(b"half a tar")
        return subprocess.CompletedProcess(command, 25)

    monkeypatch.setattr(fresh, "HOMES", tmp_path)
    monkeypatch.setattr(fresh, "apt_options", list)
    monkeypatch.setattr(subprocess, "run", build)
    with pytest.raises(fresh.NoDebian, match=r"cannot install trixie \(status 25\)"):
        fresh.debian("trixie", None)
    assert list((tmp_path / "roots").iterdir()) == []


def test_settings_reach_the_system_and_others_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[object] = []
    monkeypatch.setattr(fresh, "missing", lambda: None)
    monkeypatch.setattr(fresh, "HOMES", tmp_path)
    monkeypatch.setattr(fresh, "try_system", lambda *arguments: given.extend(arguments[-2:]))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["script", "--quick", "--env", "FALLBACK_ENGINE=espeak-ng", "--env", "A=b=c"])
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--package", "av==17.1.0"])
    assert fresh.main() == 0
    assert given == [["av==17.1.0"], {"FALLBACK_ENGINE": "espeak-ng", "A": "b=c"}]
    monkeypatch.setattr(sys, "argv", ["script", "--env", "FALLBACK_ENGINE"])
    with pytest.raises(SystemExit):
        fresh.main()
    assert "'FALLBACK_ENGINE' is not NAME=VALUE" in capsys.readouterr().err


def test_a_service_that_ends_is_not_waited_for() -> None:
    with pytest.raises(fresh.Failed, match="ended with 0 before it was ready"):
        fresh.wait_until_ready(ended(), "http://127.0.0.1:9/readyz", 60)


def test_the_line_to_paste_is_the_one_that_the_service_prints(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("Ready. Paste this to make speech.wav:\ncurl x\nor, without curl:\ncd /a && b speak\n\n", "utf-8")
    assert fresh.printed_line(log) == "cd /a && b speak"
    log.write_text("Ready.\n", "utf-8")
    with pytest.raises(fresh.Failed, match="no line to paste"):
        fresh.printed_line(log)


def test_only_what_reaches_a_package_index_is_handed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    wanted = {"PIP_INDEX_URL": "x", "UV_DEFAULT_INDEX": "x", "https_proxy": "x", "SSL_CERT_FILE": "x"}
    others = {"API_KEY": "x", "UV_CACHE_DIR": "x", "PIP_FIND_LINKS": str(tmp_path)}
    for name, value in {**wanted, **others}.items():
        monkeypatch.setenv(name, value)
    assert fresh.index_settings() == wanted


def test_the_service_is_found_below_any_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the first that runs as the image's user; here everything runs as this one."""
    program = (
        "import subprocess, sys, threading\n"
        "child = lambda: children.append(subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0))\n"
        "children = []\n"
        "thread = threading.Thread(target=lambda: (child(), print(children[0].pid, flush=True), children[0].wait()))\n"
        "thread.start()\n"
    )
    monkeypatch.setattr(image, "UID", os.getuid())
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert parent.stdout
        child = int(parent.stdout.readline())
        assert image.service_of(parent.pid) == child
    finally:
        parent.communicate(b"\n", timeout=60)
    assert parent.returncode == 0


def test_what_only_tests_need_is_the_difference_of_the_locks() -> None:
    names = image.only_for_tests()
    assert {"pytest", "mypy", "ruff", "hypothesis"} <= names
    assert not {"torch", "gunicorn", "av"} & names


@pytest.mark.parametrize(
    ("programs", "built"),
    [
        (("docker", "podman", "buildah"), "docker build --tag name ."),
        (("podman", "buildah"), "podman build --format docker --tag name ."),
        (("broken docker", "buildah"), "buildah build --format docker --tag name ."),
    ],
)
def test_an_image_is_built_with_the_first_engine_that_works(
    programs: tuple[str, ...], built: str, tmp_path: Path
) -> None:
    for name in ("dirname", *programs):
        program = tmp_path / name.split()[-1]
        if name == "dirname":
            program.symlink_to(shutil.which("dirname") or "")
            continue
        ends = "exit 1" if name.startswith("broken") else 'test "$1" = info || echo "${0##*/} $*"'
        program.write_text(f"#!/bin/sh\n{ends}\n", encoding="utf-8")
        program.chmod(0o755)
    ran = subprocess.run(
        ["/bin/sh", image.PROJECT / "scripts" / "build-image", "--tag", "name"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, built), ran.stderr


def test_without_an_engine_no_image_is_built(tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to(shutil.which("dirname") or "")
    script = image.PROJECT / "scripts" / "build-image"
    ran = subprocess.run(
        ["/bin/sh", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 2
    assert "needs docker with its daemon, podman or buildah" in ran.stderr


def test_the_commands_of_the_documentation_are_found_and_sent_to_the_image() -> None:
    readme = image.documented("README.md", "## Generate speech", "curl")
    runpod = [each for each in image.documented("docs/deployment.md", "## RunPod", "curl") if "proxy.runpod" in each]
    assert (len(readme), len(runpod)) == (2, 1)
    for command in readme + runpod:
        local = image.local_command(command, "http://127.0.0.1:9")
        assert "http://127.0.0.1:9/tts/generate" in local
        assert "localhost" not in local
        assert "runpod.net" not in local


def test_the_documented_docker_run_is_checked_against_the_image() -> None:
    config = {"Volumes": {"/cache": {}, "/app/voices": {}}, "ExposedPorts": {"8000/tcp": {}}}
    image.check_docker_lines(config)
    for broken in ({"Volumes": {"/cache": {}}}, {"ExposedPorts": {"80/tcp": {}}}):
        with pytest.raises(fresh.Failed, match="differs from the Dockerfile"):
            image.check_docker_lines(config | broken)


def test_the_smoke_test_fetches_every_file_of_the_page() -> None:
    waiting, named = ["/"], {"/"}
    while waiting:
        path = waiting.pop()
        file = FOLDER / ("index.html" if path == "/" else path.removeprefix("/static/"))
        found = set(files_named(path, file.read_text(encoding="utf-8")))
        waiting += found - named
        named |= found
    files = [each for folder in (FOLDER, FOLDER / "client") for each in folder.iterdir() if each.is_file()]
    others = {"/static/index.html", "/static/docs.html", "/static/docs.js", "/static/client/index.d.ts"}
    paths = {f"/static/{each.relative_to(FOLDER).as_posix()}" for each in files}
    assert named - {"/"} == paths - others
