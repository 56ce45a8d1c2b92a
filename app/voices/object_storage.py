"""Object storage for voices: the few operations that they need, on a bucket through fsspec or on a shared folder.

s3://bucket/folder      S3 and what speaks its protocol        package s3fs
gs://bucket/folder      Google Cloud Storage                   package gcsfs
az://container/folder   Azure Blob Storage                     package adlfs
file:///mnt/voices      a folder that all machines mount
memory://name           this process alone: for tests
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "memory": "fsspec"}
_EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure"}
SCHEMES = ("file", *_PACKAGES)


class ObjectStorage(Protocol):
    """Objects by name, with "/" between folders. Every method blocks and is thread-safe.

    A write is atomic: no reader sees a part of an object. What has been written is read by everyone from then on.
    Each method raises what the storage fails with, of any kind, beside the errors that it names.
    """

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        ...

    def write(self, name: str, data: bytes) -> None: ...

    def create(self, name: str, data: bytes) -> None:
        """Write an object that does not exist yet. Raises FileExistsError, after a retry of its own write too."""
        ...

    def delete(self, name: str) -> None:
        """Delete an object if it exists."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names in a folder, without its own."""
        ...

    def age(self, name: str) -> float:
        """Seconds since an object was written, by both clocks. Raises FileNotFoundError."""
        ...


def url_problem(url: str) -> str | None:
    """Why a URL cannot be used, and what to do; None if it can. Imports no package and contacts nobody."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        return f"its scheme is none of {', '.join(f'{each}:' for each in SCHEMES)}"
    if parts.scheme == "file":
        return None if parts.path.startswith("/") and not parts.netloc else "write file:///absolute/path"
    if not parts.netloc:
        return f"the bucket is missing: write {parts.scheme}://bucket/folder"
    package = _PACKAGES[parts.scheme]
    if importlib.util.find_spec(package) is None:
        extra = _EXTRAS.get(parts.scheme)
        install = f"pip install 'csm-serve[{extra}]', or " if extra else ""
        return f"the package {package} is not installed: {install}pip install {package}"
    return None


def open_storage(url: str, options: Mapping[str, Any], timeout: float) -> ObjectStorage:
    """The storage of a valid URL. options: fsspec's storage options. timeout: seconds that it may send nothing."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FolderStorage(Path(unquote(parts.path)))
    return BucketStorage(url, options, timeout)


class BucketStorage:
    """A folder of a bucket, through fsspec. Nothing of it is cached here: neither objects nor listings."""

    def __init__(self, url: str, options: Mapping[str, Any], timeout: float) -> None:
        import fsspec  # and with it the package of the scheme: only for those who have set VOICES_URL

        scheme = urlsplit(url).scheme
        defaults: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if scheme == "s3":
            # One connection an object, and one retry: what takes longer is told by the deadline of whoever waits.
            attempts = {"total_max_attempts": 1, "mode": "standard"}
            limits = {"connect_timeout": timeout, "read_timeout": timeout, "retries": attempts}
            defaults |= {"max_concurrency": 1, "config_kwargs": limits}
        self._files, root = fsspec.core.url_to_fs(url, **{**defaults, **options})
        self._root = root.rstrip("/")
        if scheme == "s3":
            self._files.retries = 2

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def read(self, name: str) -> bytes:
        with _told_apart():
            return bytes(self._files.cat_file(self._path(name)))

    def write(self, name: str, data: bytes) -> None:
        self._files.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> None:
        try:
            self._files.pipe_file(self._path(name), data, mode="create")
        except OSError as error:
            if _refused_to_replace(error):
                raise FileExistsError(errno.EEXIST, "it exists", name) from error
            raise

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def names(self, folder: str) -> list[str]:
        try:
            with _told_apart():
                found = self._files.ls(self._path(folder), detail=False)
        except FileNotFoundError:  # a folder is there while something is in it
            return []
        names = (str(each).rstrip("/").rpartition("/")[2] for each in found)
        return sorted(name for name in names if name and name != folder)

    def age(self, name: str) -> float:
        return time.time() - float(self._files.modified(self._path(name)).timestamp())


@contextlib.contextmanager
def _told_apart() -> Iterator[None]:
    """An object that is missing is a FileNotFoundError, a bucket that is missing is not."""
    try:
        yield
    except FileNotFoundError as error:
        if _answer(error).get("Error", {}).get("Code") == "NoSuchBucket":
            raise ConnectionError(f"the bucket does not exist ({error})") from error
        raise


def _refused_to_replace(error: OSError) -> bool:
    """Services that speak S3's protocol put the refusal into words of their own; its status is always 412."""
    return isinstance(error, FileExistsError) or (
        _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode") == 412
    )


def _answer(error: OSError) -> dict[str, Any]:
    """What S3 answered, as botocore has parsed it; empty for other services."""
    answer = getattr(error.__cause__, "response", None)
    return answer if isinstance(answer, dict) else {}


class FolderStorage:
    """A folder of a file system that all machines mount: objects are files, renamed or linked into place."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextlib.contextmanager
    def _staged(self, path: Path, data: bytes) -> Iterator[Path]:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.parent / f".{secrets.token_hex(8)}.tmp"
        try:
            with draft.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        path = self._root / name
        with self._staged(path, data) as draft:
            draft.rename(path)

    def create(self, name: str, data: bytes) -> None:
        path = self._root / name
        with self._staged(path, data) as draft:
            path.hardlink_to(draft)  # unlike a rename it never replaces a file

    def delete(self, name: str) -> None:
        path = self._root / name
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or gone
            if path.parent.parent != self._root:  # the folder of one object's kin, which nobody else writes to
                path.parent.rmdir()

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._root / folder) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def age(self, name: str) -> float:
        return time.time() - (self._root / name).stat().st_mtime
