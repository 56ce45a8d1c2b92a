"""Where a client finds its service: the environment, then `.env` in the working directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dotenv import dotenv_values

from .errors import Misconfigured

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # of the addresses that listen everywhere


def address_and_key(env_file: Path = Path(".env")) -> tuple[str, str | None]:
    """CSM_URL, or else the address on which a service with this HOST and PORT listens; the first key of API_KEY.

    An empty value counts as unset. Raises Misconfigured if the file cannot be read, or PORT is no port.
    """
    value = _reader(env_file)
    key = next(filter(None, (part.strip() for part in value("API_KEY", "").split(","))), None)
    return value("CSM_URL", "") or local_url(value("HOST", "0.0.0.0"), _port(value("PORT", "8000"))), key


def configured_url(env_file: Path = Path(".env")) -> str | None:
    """CSM_URL; None where nobody has set it. Raises Misconfigured if the file cannot be read."""
    return _reader(env_file)("CSM_URL", "") or None


def _reader(env_file: Path) -> Callable[[str, str], str]:
    """Returns the value of a variable, or a default where it is unset or empty."""
    try:
        in_file = dotenv_values(env_file, encoding="utf-8") if env_file.exists() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{env_file} cannot be read: {error}") from None
    return lambda name, default: os.environ.get(name) or in_file.get(name) or default


def local_url(host: str, port: int) -> str:
    """The URL at which this machine reaches a service that listens on an address."""
    address = _LOOPBACK.get(host, host)
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise Misconfigured(f"PORT is {text!r}; it may be a number from 1 to 65535")
    return int(text)
