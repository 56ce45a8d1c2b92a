from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.server.preflight import bind_error, cannot_listen, cannot_start, check
from app.settings import Settings
from app.settings_loader import SettingsError

NOBODY = 65534


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may write and listen everywhere: become another user for a moment."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(NOBODY)
    except PermissionError:
        pytest.skip("this root may not become another user")
    try:
        yield
    finally:
        os.seteuid(0)


def error_of(settings: Settings, **changed: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        check(settings.model_copy(update=changed), [])
    return str(caught.value)


def test_valid_settings_pass_and_create_the_directory_of_uploads(settings: Settings) -> None:
    assert not settings.preloaded_voices_dir.exists()
    for _ in range(2):
        check(settings, [("127.0.0.1", 0)])
    assert list(settings.voices_dir.iterdir()) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_in_use_is_named(host: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as used:
        try:
            used.bind((host, 0))
        except OSError:
            pytest.skip(f"{host} is not available")
        used.listen()
        port = used.getsockname()[1]
        line = cannot_listen(host, port)
        assert line is not None
        assert line.startswith(f"PORT={port} is in use on {host}")
    assert cannot_listen(host, port) is None


def test_a_host_of_another_machine_is_named() -> None:
    line = cannot_listen("192.0.2.1", 0)
    assert line is not None
    assert line.startswith("HOST=192.0.2.1 is not an address of this machine.")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 300, "1:2"])
def test_a_host_that_does_not_resolve_is_named(host: str) -> None:
    line = cannot_listen(host, 0)
    assert line is not None
    assert line.startswith(f"HOST={host} is neither an address nor a name")


def test_a_low_port_without_the_right_is_named() -> None:
    start = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if start.exists() and int(start.read_text()) <= 99:
        pytest.skip("everybody may listen on low ports here")
    with without_rights():
        line = cannot_listen("127.0.0.1", 99)
    assert line is not None
    assert line.startswith("PORT=99 is not allowed for this user: below 1024 ")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EADDRINUSE, "PORT=80 is in use on ::1: stop the process that listens there"),
        (errno.EACCES, "PORT=80 is not allowed for this user: below 1024 a port needs CAP_NET_BIND_SERVICE"),
        (errno.EADDRNOTAVAIL, "HOST=::1 is not an address of this machine"),
        (errno.EAFNOSUPPORT, "HOST=::1 with PORT=80 cannot be listened on"),
    ],
)
def test_every_bind_error_names_the_setting_its_value_and_what_to_do(code: int, expected: str) -> None:
    line = bind_error("::1", 80, OSError(code, os.strerror(code)))
    assert line.startswith(expected)
    assert "\n" not in line
    assert "et PORT to" in line or "Set HOST to" in line


def test_a_directory_of_uploads_that_is_a_file_or_lies_below_one_is_named(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert error_of(settings, voices_dir=file).startswith(f"VOICES_DIR={file} is not a directory. Set VOICES_DIR to")
    below = file / "voices"
    assert error_of(settings, voices_dir=below).startswith(f"VOICES_DIR={below} cannot be written to: Not a directory")


def test_directories_without_the_right_to_them_are_named(settings: Settings, tmp_path: Path) -> None:
    for name in ("voices", "preloaded"):
        (tmp_path / name).mkdir(mode=0)
    with without_rights():
        lines = error_of(settings)
    uploads, preloaded = lines.splitlines()
    assert uploads.startswith(f"VOICES_DIR={tmp_path / 'voices'} cannot be written to: Permission denied.")
    assert preloaded.startswith(f"PRELOADED_VOICES_DIR={tmp_path / 'preloaded'} cannot be read: Permission denied.")


def test_a_full_disk_does_not_prevent_a_start(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**where: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    check(settings, [])


def test_preloaded_voices_may_be_missing_but_not_a_file(settings: Settings, tmp_path: Path) -> None:
    check(settings.model_copy(update={"preloaded_voices_dir": tmp_path / "none"}), [])
    file = tmp_path / "file"
    file.write_text("")
    line = error_of(settings, preloaded_voices_dir=file)
    assert line.startswith(f"PRELOADED_VOICES_DIR={file} cannot be read: Not a directory. Set it to")


def test_all_problems_are_reported_at_once(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    wrong = settings.model_copy(update={"voices_dir": file, "preloaded_voices_dir": file})
    with pytest.raises(SettingsError) as caught:
        check(wrong, [("192.0.2.1", 0)])
    lines = cannot_start(caught.value).splitlines()
    assert [line.split("=")[0] for line in lines] == [
        f"csm-serve cannot start: {name}" for name in ("HOST", "VOICES_DIR", "PRELOADED_VOICES_DIR")
    ]


def test_a_lexicon_that_cannot_be_used_stops_the_start(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "lexicon"
    line = error_of(settings, lexicon=file)
    assert line.startswith(f"LEXICON={file} cannot be read: No such file or directory. Set LEXICON")
    file.write_text("a = b\nc\n", encoding="utf-8")
    line = error_of(settings, lexicon=file)
    assert line.startswith(f"LEXICON={file} cannot be used: line 2: 'c' must be written as word = replacement.")
    file.write_text("a = b\n", encoding="utf-8")
    check(settings.model_copy(update={"lexicon": file}), [])
