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
import importlib
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
    limit: seconds after which a bucket's call is given up; nobody waits for it any more.
    """

    def read(self, name: str, limit: float | None = None) -> bytes:
        """Raises FileNotFoundError."""
        ...

    def write(self, name: str, data: bytes, limit: float | None = None) -> None: ...

    def create(self, name: str, data: bytes, limit: float | None = None) -> None:
        """Write an object that does not exist yet. Raises FileExistsError, after a retry of its own write too."""
        ...

    def delete(self, name: str, limit: float | None = None) -> None:
        """Delete an object if it exists."""
        ...

    def names(self, folder: str, limit: float | None = None) -> list[str]:
        """The names in a folder, without its own."""
        ...

    def age(self, name: str, limit: float | None = None) -> float:
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
    """A folder of a bucket, through fsspec. Nothing of it is cached here: neither objects nor listings.

    A call whose limit is over is cancelled: gcsfs and adlfs would try again for a minute, and each call takes a thread.
    """

    def __init__(self, url: str, options: Mapping[str, Any], timeout: float) -> None:
        import fsspec  # and with it the package of the scheme: only for those who have set VOICES_URL
        import fsspec.asyn

        self._sync = fsspec.asyn.sync
        scheme = urlsplit(url).scheme
        defaults: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if scheme == "s3":
            # One connection an object, and one retry: what takes longer is told by the deadline of whoever waits.
            attempts = {"total_max_attempts": 1, "mode": "standard"}
            limits = {"connect_timeout": timeout, "read_timeout": timeout, "retries": attempts}
            defaults |= {"max_concurrency": 1, "config_kwargs": limits}
        if scheme == "gs":
            self._files, root = _google_files(url, {**defaults, **options})
        else:
            self._files, root = fsspec.core.url_to_fs(url, **{**defaults, **options})
        self._root = root.rstrip("/")
        if scheme == "s3":
            self._files.retries = 2
        # Else gcsfs may ask for the size first, and then read ranges of what has been replaced meanwhile.
        self._read_options = {"concurrency": 1} if scheme == "gs" else {}

    def _call(self, limit: float | None, method: str, name: str, *args: Any, **options: Any) -> Any:
        """Call a method of the file system."""
        path = f"{self._root}/{name}"
        if not self._files.async_impl:
            return getattr(self._files, method)(path, *args, **options)
        call = getattr(self._files, f"_{method}")
        return self._sync(self._files.loop, call, path, *args, timeout=limit, **options)

    def read(self, name: str, limit: float | None = None) -> bytes:
        with _told_apart():
            return bytes(self._call(limit, "cat_file", name, **self._read_options))

    def write(self, name: str, data: bytes, limit: float | None = None) -> None:
        self._call(limit, "pipe_file", name, data)

    def create(self, name: str, data: bytes, limit: float | None = None) -> None:
        try:
            self._call(limit, "pipe_file", name, data, mode="create")
        except OSError as error:
            if _refused_to_replace(error):
                raise FileExistsError(errno.EEXIST, "it exists", name) from error
            raise

    def delete(self, name: str, limit: float | None = None) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._call(limit, "rm_file", name)

    def names(self, folder: str, limit: float | None = None) -> list[str]:
        try:
            with _told_apart():
                found = self._call(limit, "ls", folder, detail=False)
        except FileNotFoundError:  # a folder is there while something is in it
            return []
        names = (str(each).rstrip("/").rpartition("/")[2] for each in found)
        return sorted(name for name in names if name and name != folder)

    def age(self, name: str, limit: float | None = None) -> float:
        return time.time() - float(self._files.modified(f"{self._root}/{name}").timestamp())


def _google_files(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """gcsfs without its support of other kinds of buckets, and the path.

    With it each process would import gRPC and look up over it of which kind the bucket is, with every call where the
    account may not be told.
    """
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read when gcsfs is imported
    files = importlib.import_module("gcsfs.core").GCSFileSystem
    return files(**options), files._strip_protocol(url)


@contextlib.contextmanager
def _told_apart() -> Iterator[None]:
    """An object that is missing is a FileNotFoundError, a bucket that is missing is not."""
    try:
        yield
    except FileNotFoundError as error:
        s3_code = _answer(error).get("Error", {}).get("Code")
        azure_code = getattr(error.__cause__ or error.__context__, "error_code", None)
        if s3_code == "NoSuchBucket" or azure_code == "ContainerNotFound":
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

    def read(self, name: str, limit: float | None = None) -> bytes:
        return (self._root / name).read_bytes()

    def write(self, name: str, data: bytes, limit: float | None = None) -> None:
        path = self._root / name
        with self._staged(path, data) as draft:
            draft.rename(path)

    def create(self, name: str, data: bytes, limit: float | None = None) -> None:
        path = self._root / name
        with self._staged(path, data) as draft:
            path.hardlink_to(draft)  # unlike a rename it never replaces a file

    def delete(self, name: str, limit: float | None = None) -> None:
        path = self._root / name
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or gone
            if path.parent.parent != self._root:  # the folder of one object's kin, which nobody else writes to
                path.parent.rmdir()

    def names(self, folder: str, limit: float | None = None) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._root / folder) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def age(self, name: str, limit: float | None = None) -> float:
        return time.time() - (self._root / name).stat().st_mtime
