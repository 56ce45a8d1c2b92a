"""The Hugging Face Hub on loopback, as far as downloads go: refusals, redirects, ranges, broken connections."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "c" * 40
TOKEN = "hf_known"


@dataclass(frozen=True)
class Fetched:
    """A GET of a large file."""

    name: str
    range: str | None
    authorization: str | None


@dataclass
class Hub:
    """repositories: id -> directory. gated: ids that need TOKEN.

    cuts: for each coming GET of a large file, after how many bytes the connection breaks. ranges: False ignores them.
    hold: while it is cleared, large files stop half way.
    """

    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    damage: bool = False
    fetched: list[Fetched] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # of the files that were asked for
    hold: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    hub.hold.set()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.hold.set()
            server.shutdown()
            thread.join(30)


def use_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Point the Hub's client in this process at `hub`, with an empty cache and no token."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_request(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._resolve()

    def do_GET(self) -> None:
        if self.path.startswith("/storage/"):
            self._storage()
        else:
            self._resolve()

    def _resolve(self) -> None:
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        repository, name = (match[1], match[2]) if match else ("", "")
        if match:  # huggingface-hub 1.x also asks whether the hub itself answers
            self.hub.names.append(f"{repository}/{name}")
        folder = self.hub.repositories.get(repository)
        if folder is None:
            self._refuse(401, "RepoNotFound")
        elif repository in self.hub.gated and self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._refuse(403 if self.headers["Authorization"] else 401, "GatedRepo")
        elif not (folder / name).is_file():
            self._refuse(404, "EntryNotFound")
        elif name.endswith(".safetensors"):
            content = (folder / name).read_bytes()
            self._headers(302, {
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content)),
                "Location": f"http://localhost:{self.hub.port}/storage/{repository}/{name}",
            })  # fmt: skip
        else:
            content = (folder / name).read_bytes()
            self._headers(200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, len(content))
            if self.command == "GET":
                self.wfile.write(content)

    def _storage(self) -> None:
        repository, _, name = self.path.removeprefix("/storage/").rpartition("/")
        content = (self.hub.repositories[repository] / name).read_bytes()
        self.hub.fetched.append(Fetched(name, self.headers["Range"], self.headers["Authorization"]))
        if self.hub.damage:
            content = bytes(len(content))
        start, status = 0, 200
        if self.headers["Range"] and self.hub.ranges:
            start, status = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")), 206
        if start >= len(content):
            self._headers(416, {})
            return
        self._headers(status, {}, len(content) - start)
        with suppress(BrokenPipeError, ConnectionResetError):
            if self.hub.cuts:
                self.wfile.write(content[start : start + self.hub.cuts.pop(0)])
                self.close_connection = True
                return
            half = (start + len(content)) // 2
            self.wfile.write(content[start:half])
            self.hub.hold.wait(60)
            self.wfile.write(content[half:])

    def _refuse(self, status: int, code: str) -> None:
        self._headers(status, {"X-Error-Code": code, "X-Error-Message": code})

    def _headers(self, status: int, headers: dict[str, str], length: int = 0) -> None:
        self.send_response(status)
        for name, value in ({"X-Repo-Commit": COMMIT, "Content-Length": str(length)} | headers).items():
            self.send_header(name, value)
        self.end_headers()
