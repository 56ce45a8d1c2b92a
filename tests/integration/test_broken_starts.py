"""Failed starts: one line with the reason, immediately, and an exit status."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import ROOT
from tests.integration.pool_clients import health, states

SERVE = ("-m", "app.cli.main", "serve")
GUNICORN = ("-m", "gunicorn", "-c", str(ROOT / "gunicorn.conf.py"))
LIMIT = 60.0  # seconds, far longer than a start


@pytest.fixture
def used_port() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield str(listener.getsockname()[1])


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "file"
    path.write_text("")
    return str(path)


def start(
    command: tuple[str, ...], environ: dict[str, str], folder: Path, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Start a service that exits by itself."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    path = os.pathsep.join(filter(None, [settings.pop("PYTHONPATH", ""), str(ROOT)]))
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**inherited, **environ, **settings, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def reason(ended: subprocess.CompletedProcess[str]) -> str:
    """The reason, from the last line."""
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    line = ended.stderr.splitlines()[-1]
    assert ended.stderr.count("csm-serve cannot start: ") == 1, ended.stderr
    return line.partition("csm-serve cannot start: ")[2]


@pytest.mark.parametrize("command", [SERVE, GUNICORN], ids=["csm-serve", "gunicorn"])
@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("PORT", "{used_port}", "PORT={used_port} is in use on 127.0.0.1"),
        ("HOST", "no-such-host.invalid", "HOST=no-such-host.invalid is neither an address nor a name"),
        ("HOST", "192.0.2.1", "HOST=192.0.2.1 is not an address of this machine"),
        ("VOICES_DIR", "{file}", "VOICES_DIR={file} is not a directory"),
        ("VOICES_DIR", "{file}/voices", "VOICES_DIR={file}/voices cannot be written to: Not a directory"),
        ("PRELOADED_VOICES_DIR", "{file}", "PRELOADED_VOICES_DIR={file} cannot be read: Not a directory"),
        ("TTS_TOP_K", "0", "TTS_TOP_K is '0', which cannot be used"),
    ],
)
def test_an_unusable_setting_is_one_line(
    env: dict[str, str],
    tmp_path: Path,
    used_port: str,
    file: str,
    command: tuple[str, ...],
    setting: str,
    value: str,
    told: str,
) -> None:
    ended = start(command, env, tmp_path, **{setting: value.format(used_port=used_port, file=file)})
    assert ended.returncode == 2
    assert reason(ended).startswith(told.format(used_port=used_port, file=file))
    assert len(ended.stderr.splitlines()) <= (1 if command == SERVE else 2)  # gunicorn first logs that it starts


@pytest.mark.parametrize("command", [SERVE, GUNICORN], ids=["csm-serve", "gunicorn"])
def test_two_unusable_settings_are_two_lines(
    env: dict[str, str], tmp_path: Path, file: str, command: tuple[str, ...]
) -> None:
    ended = start(command, env, tmp_path, HOST="192.0.2.1", VOICES_DIR=file)
    assert ended.returncode == 2
    assert re.findall(r"^csm-serve cannot start: (\w+)=", ended.stderr, re.MULTILINE) == ["HOST", "VOICES_DIR"]


def test_gunicorn_may_bind_another_address(env: dict[str, str], tmp_path: Path, used_port: str) -> None:
    ended = start((*GUNICORN, "--bind", f"127.0.0.1:{used_port}"), env, tmp_path, PORT="1")
    assert ended.returncode == 2
    assert reason(ended).startswith(f"PORT={used_port} is in use")


@pytest.mark.parametrize("workers", ["1", "3"])
@pytest.mark.parametrize("command", [SERVE, GUNICORN], ids=["csm-serve", "gunicorn"])
def test_a_module_missing_in_the_workers_ends_the_service(
    env: dict[str, str], tmp_path: Path, free_port: str, command: tuple[str, ...], workers: str
) -> None:
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "fastapi.py").write_text("raise ModuleNotFoundError(\"No module named 'opentelemetry'\")")
    ended = start(command, env, tmp_path, PORT=free_port, PYTHONPATH=str(shadow), WORKERS=workers)
    assert ended.returncode == 1
    told = reason(ended)
    assert told.startswith("ModuleNotFoundError: No module named 'opentelemetry' (the Python environment")
    assert "times in a row" not in told
    if workers == "1":
        assert ended.stderr.count("Booting worker") == 1


def test_a_module_missing_in_the_master_is_one_line(env: dict[str, str], tmp_path: Path) -> None:
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "uvicorn.py").write_text("raise ModuleNotFoundError(\"No module named 'h11'\")")
    ended = start(SERVE, env, tmp_path, PYTHONPATH=str(shadow))
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "csm-serve cannot start: No module named 'h11' (the Python environment is not complete: `make install`)"
    ]


@pytest.fixture
def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_three_equal_crashes_end_the_service(env: dict[str, str], tmp_path: Path, free_port: str, workers: str) -> None:
    trouble = tmp_path / "trouble"
    trouble.write_text("exits")
    ended = start(SERVE, env, tmp_path, PORT=free_port, MODEL_PATH=f"fake:trouble={trouble}", WORKERS=workers)
    assert ended.returncode == 1
    told = reason(ended)
    assert told.startswith("its process exited with status 70 while loading the fake engine, ")
    assert told.endswith(" times in a row")
    assert ended.stderr.count("exited with code 70") >= 3 * int(workers)
    if workers == "1":
        assert told.endswith(", 3 times in a row")
        assert ended.stderr.count("Booting worker") == 3


def test_a_worker_killed_three_times_before_ready_ends_the_service(serve: Any) -> None:
    server = serve(wait=False, MODEL_PATH="fake:load_seconds=600")
    killed: set[int] = set()
    while len(killed) < 3:
        server.wait_until(lambda: not killed & {each.pid for each in server.workers()})
        server.wait_until(lambda: states(server) == ["loading"])
        (worker,) = server.workers()
        worker.kill()
        killed.add(worker.pid)
    assert server.process.wait(timeout=LIMIT) == 1
    line = server.log.splitlines()[-1]
    assert line.endswith(
        "csm-serve cannot start: its process was ended by SIGKILL (the machine may be out of memory) while loading the"
        " fake engine, 3 times in a row"
    )


def test_a_service_that_was_ready_restarts_its_worker_however_often_it_fails(serve: Any, tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    server = serve(MODEL_PATH=f"fake:trouble={trouble}")
    trouble.write_text("exits")
    server.workers()[0].kill()
    server.wait_until(lambda: "4 in a row" in server.log)
    trouble.unlink()
    server.wait_until(lambda: states(server) == ["ready"])


def test_an_engine_that_cannot_load_keeps_reporting_the_reason(serve: Any) -> None:
    server = serve(wait=False, MODEL_PATH="fake:load_fails=true")
    server.wait_for(500, "/health")
    assert "loading fails, as asked for" in health(server)[1]["tts_engines"]["cpu_0"]["error"]
    assert server.get("/livez") is not None
    assert server.stop() == 0


def test_a_reload_does_not_find_its_own_port_in_use(serve: Any) -> None:
    server = serve()
    before = {each.pid for each in server.workers()}
    server.process.send_signal(signal.SIGHUP)
    server.wait_until(lambda: before.isdisjoint({each.pid for each in server.workers()}))
    server.wait_until(lambda: states(server) == ["ready"])
    assert server.stop() == 0
