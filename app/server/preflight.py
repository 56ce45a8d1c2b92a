"""Startup checks of the address and the directories. Each failure is one line that names the setting."""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from engine import InvalidRequest

from ..access.key_file import InvalidKeyFile, read_keys
from ..lexicon_file import read_lexicon
from ..observability import tracing
from ..settings import Settings
from ..settings_loader import SettingsError
from ..voices.object_storage import url_problem

_FIRST_UNPRIVILEGED_PORT = 1024  # Linux requires CAP_NET_BIND_SERVICE below it


def check(settings: Settings, addresses: Iterable[tuple[str, int]]) -> None:
    """Check that the service can start. Raises SettingsError with one line per problem.

    addresses: to listen on, as (host, port); empty if the sockets are inherited.
    """
    problems = [cannot_listen(host, port) for host, port in addresses]
    problems += [_not_writable(settings.voices_dir), _not_readable(settings.preloaded_voices_dir)]
    problems += [_no_lexicon(settings.lexicon), _no_storage(settings.voices_url), _no_keys(settings.api_keys_file)]
    problems += [_no_redis(settings), _no_opentelemetry(settings)]
    if lines := [line for line in problems if line is not None]:
        raise SettingsError("\n".join(lines))


def cannot_start(reason: object) -> str:
    """The message for stderr, with a prefix on each line of the reason."""
    return "\n".join(f"csm-serve cannot start: {line}" for line in str(reason).splitlines())


def cannot_listen(host: str, port: int) -> str | None:
    """Why this process cannot listen on an address; None if it can. Binds it as gunicorn does and frees it again.

    gunicorn itself retries a used port for five seconds, and its messages name no setting.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, UnicodeError) as error:
        return bind_error(host, port, error)
    return None


def bind_error(host: str, port: int, error: OSError | UnicodeError) -> str:
    """One line about an error of bind(): the setting, its value, and what to do."""
    code = None if isinstance(error, UnicodeError | socket.gaierror) else error.errno
    if code == errno.EADDRINUSE:
        return f"PORT={port} is in use on {host}: stop the process that listens there, or set PORT to a free one."
    if code in (errno.EACCES, errno.EPERM):
        subject = f"below {_FIRST_UNPRIVILEGED_PORT} a port" if port < _FIRST_UNPRIVILEGED_PORT else "it"
        return (
            f"PORT={port} is not allowed for this user: {subject} needs CAP_NET_BIND_SERVICE. Set PORT to one from "
            f"{_FIRST_UNPRIVILEGED_PORT} on, and put a proxy in front of it."
        )
    advice = "Set HOST to 0.0.0.0 (all addresses), 127.0.0.1 (this machine alone) or an address that `ip addr` lists."
    if code == errno.EADDRNOTAVAIL:
        return f"HOST={host} is not an address of this machine. {advice}"
    if code is None:
        return f"HOST={host} is neither an address nor a name that this machine resolves. {advice}"
    return f"HOST={host} with PORT={port} cannot be listened on: {error}. {advice}"


def _not_writable(folder: Path) -> str | None:
    """Check the directory of uploads by creating it if necessary and writing an unnamed file to it."""
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
            return None  # speech needs no disk space; uploads report the error
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


def _no_storage(url: str | None) -> str | None:
    """Whether the storage answers is not asked: a service starts without it."""
    problem = None if url is None else url_problem(url)
    return None if problem is None else f"VOICES_URL={url} cannot be used: {problem}."


def _no_lexicon(path: Path | None) -> str | None:
    advice = "Set LEXICON to a file with word = replacement on each line, or leave it empty."
    return _unreadable("LEXICON", path, read_lexicon, InvalidRequest, advice)


def _no_keys(path: Path | None) -> str | None:
    advice = "Make it with `csm-serve keys add NAME`, or leave API_KEYS_FILE empty."
    return _unreadable("API_KEYS_FILE", path, read_keys, InvalidKeyFile, advice)


def _unreadable(
    name: str, path: Path | None, read: Callable[[Path], object], invalid: type[Exception], advice: str
) -> str | None:
    """What is wrong with the file of a setting. invalid: what `read` raises for its contents."""
    try:
        if path is not None:
            read(path)
    except OSError as error:
        return f"{name}={path} cannot be read: {error.strerror or error}. {advice}"
    except invalid as error:
        return f"{name}={path} cannot be used: {error}. {advice}"
    return None


def _no_redis(settings: Settings) -> str | None:
    if settings.rate_limit_url is None or all(map(importlib.util.find_spec, ("limits", "redis"))):
        return None
    return "RATE_LIMIT_URL needs the packages limits and redis: `pip install limits redis`, or leave it empty."


def _no_opentelemetry(settings: Settings) -> str | None:
    if settings.otel_exporter_otlp_endpoint is None or tracing.is_installed():
        return None
    return (
        "OTEL_EXPORTER_OTLP_ENDPOINT needs the packages opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http: "
        "`pip install` them, or leave it empty."
    )
