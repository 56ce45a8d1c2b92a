"""API_KEYS_FILE: a JSON file of keys, each with its hash and its limits; written whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from .api_keys import MAX_KEYS, ApiKey


class InvalidKeyFile(Exception):
    """The file cannot be used. The message names the entry and what is wrong with it."""


class _Entries(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[ApiKey]


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file. Raises OSError and InvalidKeyFile."""
    try:
        keys = tuple(_Entries.model_validate_json(path.read_bytes()).keys)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InvalidKeyFile(f"{place}: {first['msg']}") from None
    if len(keys) > MAX_KEYS:
        raise InvalidKeyFile(f"it has {len(keys)} keys; the limit is {MAX_KEYS}")
    for what, values in (("name", [each.name for each in keys]), ("sha256", [each.sha256 for each in keys])):
        if twice := next((value for value, times in Counter(values).items() if times > 1), None):
            raise InvalidKeyFile(f"{what} {twice!r} is there twice")
    if taken := next((each.name for each in keys if each.is_operator), None):
        raise InvalidKeyFile(f"name {taken!r}: names that begin with api_key_ are those of API_KEY")
    return keys


@contextmanager
def edited_keys(path: Path) -> Iterator[list[ApiKey]]:
    """The keys of a file to change in place: they are written when the context ends without an error.

    A file that does not exist is created. Other editors wait meanwhile; readers see the old file or the new one.
    Raises OSError and InvalidKeyFile.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        keys = list(read_keys(path)) if path.exists() else []
        yield keys
        _write(path, keys)
        os.fsync(folder)
    finally:
        os.close(folder)


def _write(path: Path, keys: list[ApiKey]) -> None:
    entries = {"keys": [each.model_dump(exclude_none=True) for each in keys]}
    file, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # with mode 600
    try:
        with os.fdopen(file, "w", encoding="utf-8") as out:
            if path.exists():  # the service goes on being able to read it
                before = path.stat()
                os.fchmod(file, stat.S_IMODE(before.st_mode))
                os.fchown(file, before.st_uid, before.st_gid)
            json.dump(entries, out, indent=2)
            out.write("\n")
            out.flush()
            os.fsync(out.fileno())
        read_keys(Path(temporary))  # what the service would refuse is not written
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
