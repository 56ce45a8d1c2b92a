"""Downloads files from the Hugging Face Hub into its client's cache, with progress; an interrupted download resumes.

The client itself resumes neither downloads through Xet nor, from 1.31 on, any other. So large files are fetched here,
to the place in its cache where it looks for them.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import Protocol

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError

log = logging.getLogger(__name__)

_ATTEMPTS = 6  # without a single byte in between
_REPORT_SECONDS = 0.5
_LOG_SECONDS = 30.0
_TIMEOUT_SECONDS = 30.0
_OK, _PARTIAL, _RANGE_NOT_SATISFIABLE = 200, 206, 416
_BLOB = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")  # git's hash, or sha256 of a large file
_SHA256_DIGITS = 64

Report = Callable[[float, str], None]  # (share that is done, current activity)


class _Incomplete(OSError):
    """The connection ended before the file did."""


class FileSource(Protocol):
    def __call__(self, name: str) -> Path:
        """The local path of a repository's file. Raises EntryNotFoundError if there is none."""


def cached(repository: str) -> FileSource:
    """Files that are in the cache already. Contacts nobody."""

    def find(name: str) -> Path:
        path = huggingface_hub.try_to_load_from_cache(repository, name)
        if not isinstance(path, str):
            raise EntryNotFoundError(f"{repository}/{name} is not in the cache")
        return Path(path)

    return find


def downloaded(repository: str, token: str | None) -> FileSource:
    """Files that are fetched unless the cache has them. For small ones: without progress, and from the start."""
    return lambda name: Path(huggingface_hub.hf_hub_download(repository, name, token=token))


@dataclass(frozen=True)
class _Blob:
    """A large file: where it is on the Hub, where it belongs in the cache, and how many bytes it has."""

    url: str
    path: Path
    size: int

    @property
    def partial(self) -> Path:
        return self.path.with_name(f"{self.path.name}.csm-partial")


def download_large(repository: str, names: list[str], token: str | None, report: Report) -> None:
    """Fetch these files into the cache, beginning where an earlier attempt ended. They are hashed when they are here.

    report: called about twice a second. Raises EntryNotFoundError and the client's other errors, and OSError.
    """
    blobs = [blob for name in names if (blob := _find(repository, name, token)) is not None]
    total = sum(blob.size for blob in blobs)
    progress = _Progress(repository, blobs, total, report)
    missing = sum(blob.size - _size(blob.partial) for blob in blobs if not blob.path.exists())
    if missing:
        folder = blobs[0].path.parent
        folder.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(folder).free) < missing:
            raise OSError(
                f"{folder} has {_amount(free)} free, but {_amount(missing)} are needed: set HF_HOME to another disk"
            )
        log.info("downloading %s: %s of %s to %s", repository, _amount(missing), _amount(total), folder)
    headers = {"Accept-Encoding": "identity", "User-Agent": "csm-serve"}
    if secret := token or huggingface_hub.get_token():
        headers["Authorization"] = f"Bearer {secret}"
    for blob in blobs:
        if not blob.path.exists():
            _download(blob, headers, progress)
    if missing:
        log.info("downloaded %s", repository)


def _find(repository: str, name: str, token: str | None) -> _Blob | None:
    """None if the Hub does not say what is needed to resume; the client then downloads the file."""
    url = huggingface_hub.hf_hub_url(repository, name)
    metadata = huggingface_hub.get_hf_file_metadata(url, token=token)
    if metadata.size is None or metadata.etag is None or not _BLOB.fullmatch(metadata.etag):
        return None
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "blobs"
    return _Blob(url, folder / metadata.etag, metadata.size)


class _Progress:
    """Reports and logs how much of all files is on disk."""

    def __init__(self, repository: str, blobs: list[_Blob], total: int, report: Report) -> None:
        self._repository, self._blobs, self._total, self._report = repository, blobs, total, report
        self._reported_at = -_REPORT_SECONDS
        self._logged_at = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._reported_at < _REPORT_SECONDS:
            return
        self._reported_at = now
        done = sum(blob.size if blob.path.exists() else _size(blob.partial) for blob in self._blobs)
        activity = f"downloading {self._repository}: {_amount(done)} of {_amount(self._total)}"
        self._report(min(done / max(self._total, 1), 1.0), activity)
        if now - self._logged_at >= _LOG_SECONDS:
            self._logged_at = now
            log.info("%s", activity)


def _download(blob: _Blob, headers: dict[str, str], progress: _Progress) -> None:
    import httpx  # only a download needs it: images without it serve directories

    with _locked(blob.partial, progress) as file:
        if blob.path.exists():  # another process was faster
            return
        attempts = 0
        while (done := file.seek(0, os.SEEK_END)) != blob.size:
            try:
                _append(file, blob, headers, progress)
            except (httpx.TransportError, _Incomplete) as error:
                attempts = 1 if file.seek(0, os.SEEK_END) > done else attempts + 1
                if attempts == _ATTEMPTS:
                    raise OSError(f"{blob.url}: the connection broke {attempts} times: {error!r}") from error
                log.warning("%s: the connection broke (%r): it resumes", blob.url, error)
                time.sleep(2.0 ** (attempts - 2))
        progress()
        _check_hash(file, blob)
        os.replace(blob.partial, blob.path)


@contextmanager
def _locked(path: Path, progress: _Progress) -> Iterator[BufferedRandom]:
    """Open for appending, alone among the processes of this machine; reports while another one downloads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress()
                time.sleep(_REPORT_SECONDS)
        yield file


def _append(file: BufferedRandom, blob: _Blob, headers: dict[str, str], progress: _Progress) -> None:
    """Fetch what is missing of the file. Raises httpx.TransportError, _Incomplete, and OSError for a refusal."""
    import httpx

    start = file.tell()
    if start > blob.size:
        start = file.truncate(0)
    wanted = headers | {"Range": f"bytes={start}-"} if start else headers
    # httpx sends the authorization to this host only, not to the storage that it redirects to
    with httpx.stream("GET", blob.url, headers=wanted, follow_redirects=True, timeout=_TIMEOUT_SECONDS) as response:
        if response.status_code in (_OK, _RANGE_NOT_SATISFIABLE):
            file.truncate(0)  # all of it comes, or what is here is not its beginning
        if response.status_code == _RANGE_NOT_SATISFIABLE:
            return
        if response.status_code not in (_OK, _PARTIAL):
            raise OSError(f"{blob.url}: the Hub answered {response.status_code} {response.reason_phrase}")
        for chunk in response.iter_bytes():
            file.write(chunk)
            file.flush()
            progress()
    if (size := file.seek(0, os.SEEK_END)) < blob.size:
        raise _Incomplete(f"{size} of {blob.size} bytes")


def _check_hash(file: BufferedRandom, blob: _Blob) -> None:
    if len(blob.path.name) != _SHA256_DIGITS:
        return
    file.seek(0)
    if hashlib.file_digest(file, "sha256").hexdigest() != blob.path.name:
        file.truncate(0)
        raise OSError(f"{blob.url}: what arrived is not what the Hub announced (sha256 differs); start again")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _amount(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
