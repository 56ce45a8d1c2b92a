"""Startup checks: what would make the service fail behind its start is one line about one setting before it."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..settings import Settings, SettingsError

_FIRST_FREE_PORT = 1024  # below it Linux asks for a right


def check(settings: Settings, addresses: Iterable[tuple[str, int]]) -> None:
    """Check what a start needs of this machine. Raises SettingsError with a line for each thing wrong.

    addresses: to listen on, as (host, port); none where the sockets are there already.
    """
    found = [cannot_listen(host, port) for host, port in addresses]
    found += [_not_writable(settings.voices_dir), _not_readable(settings.preloaded_voices_dir)]
    if wrong := [line for line in found if line is not None]:
        raise SettingsError("\n".join(wrong))


def cannot_start(why: object) -> str:
    """What is told on stderr: every line of why stands for itself."""
    return "\n".join(f"csm-serve cannot start: {line}" for line in str(why).splitlines())


def cannot_listen(host: str, port: int) -> str | None:
    """Why this process cannot listen on an address, which is bound as gunicorn does and freed again; None if it can.

    gunicorn itself tries a used port for five seconds, and its lines name no setting.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, UnicodeError) as error:
        return refusal(host, port, error)
    return None


def refusal(host: str, port: int, error: OSError | UnicodeError) -> str:
    """One line about what a bind has raised: the setting, its value, and what to do."""
    code = None if isinstance(error, UnicodeError | socket.gaierror) else error.errno
    if code == errno.EADDRINUSE:
        return f"PORT={port} is in use on {host}: stop what listens there, or set PORT to a free one."
    if code in (errno.EACCES, errno.EPERM):
        why = f"below {_FIRST_FREE_PORT} a port" if port < _FIRST_FREE_PORT else "it"
        return (
            f"PORT={port} is not allowed for this user: {why} needs CAP_NET_BIND_SERVICE. Set PORT to one from "
            f"{_FIRST_FREE_PORT} on, and put a proxy in front of it."
        )
    advice = "Set HOST to 0.0.0.0 (all addresses), 127.0.0.1 (this machine alone) or an address that `ip addr` lists."
    if code == errno.EADDRNOTAVAIL:
        return f"HOST={host} is not an address of this machine. {advice}"
    if code is None:
        return f"HOST={host} is neither an address nor a name that this machine resolves. {advice}"
    return f"HOST={host} with PORT={port} cannot be listened on: {error}. {advice}"


def _not_writable(folder: Path) -> str | None:
    """The directory of uploads is made if it is missing, and a file without a name is written to it."""
    advice = "Set VOICES_DIR to a directory that the service may write to; it is made if it is missing."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.listdir(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError:
        return f"VOICES_DIR={folder} is not a directory. {advice}"
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return None  # speech needs no space; an upload is told that there is none
        return f"VOICES_DIR={folder} cannot be written to: {error.strerror or error}. {advice}"
    return None


def _not_readable(folder: Path) -> str | None:
    """The directory of preloaded voices may be missing."""
    try:
        os.listdir(folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        return (
            f"PRELOADED_VOICES_DIR={folder} cannot be read: {error.strerror or error}. Set it to a directory that the "
            "service may read, or to one that does not exist where there are no such voices."
        )
    return None
