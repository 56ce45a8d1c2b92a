"""Reads the settings from the environment and `.env`, as no other module does, and says what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from .settings import KeySettings, ModelSettings, Settings

ENV_FILE = Path(".env")  # in the working directory

_Settings = TypeVar("_Settings", bound=BaseSettings)

# Never shown, not even if invalid.
_SECRETS = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}


class SettingsError(Exception):
    """Invalid settings. The message has one line for each: its name, its value, the valid values."""


def load_settings(env_file: Path | None = ENV_FILE) -> Settings:
    """Read the environment and the file. Raises SettingsError, which names every invalid setting."""
    return _load(Settings, env_file)


def load_key_settings(env_file: Path | None = ENV_FILE) -> KeySettings:
    """The same for the command that edits keys. Raises SettingsError."""
    return _load(KeySettings, env_file)


def load_model_settings(env_file: Path | None = ENV_FILE) -> ModelSettings:
    """The same for a command that loads the model. Raises SettingsError."""
    return _load(ModelSettings, env_file)


def _load(kind: type[_Settings], env_file: Path | None) -> _Settings:
    try:
        return cast(_Settings, cast(Any, kind)(_env_file=env_file))
    except ValidationError as error:
        lines = [_describe(tuple(map(str, each["loc"])), str(each["msg"]), env_file) for each in error.errors()]
        raise SettingsError("\n".join(dict.fromkeys(lines))) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{env_file} cannot be read: {error}") from None


def _describe(location: tuple[str, ...], message: str, env_file: Path | None) -> str:
    """One line about an invalid setting, without its value if that is a secret."""
    field = location[0].lower()
    name, valid = field.upper(), Settings.model_fields[field].description
    value = _raw(name, env_file)
    if value is None:
        return f"{name} is not set. It may be: {valid}. Set it in the environment or in .env (see .env.example)."
    shown = "" if field in _SECRETS else f" is {value!r}, which"
    return f"{name}{shown} cannot be used ({message}). It may be: {valid}."


def _raw(name: str, env_file: Path | None) -> str | None:
    """The setting as written, from the source that was used."""
    for source in (dict(os.environ), read_env_file(env_file)):
        for key, value in source.items():
            if key.upper() == name and value:
                return value
    return None


def read_env_file(env_file: Path | None) -> dict[str, str]:
    """The variables that a `.env` sets; empty without a file."""
    from dotenv import dotenv_values  # pydantic-settings reads it with the same

    if env_file is None or not env_file.is_file():
        return {}
    return {name: value for name, value in dotenv_values(env_file, encoding="utf-8").items() if value}
