"""Language models and recognisers of the tests, over HTTP as OpenAI's are."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ModelHandler(BaseHTTPRequestHandler, ABC):
    """Answers what is posted."""

    def do_POST(self) -> None:
        self.answer()

    @abstractmethod
    def answer(self) -> None:
        """Send the response to a POST."""

    def read_body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    @property
    def transcribes(self) -> bool:
        """The request is for a transcription, not for chat completions."""
        return self.path.endswith("/audio/transcriptions")

    def send_transcript(self, words: str) -> None:
        self._send("application/json", json.dumps({"text": words}))

    def send_answer(self, pieces: Iterable[str]) -> None:
        """A streamed chat completion: each piece is sent as it comes, up to the end."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()  # without a length: the end of the connection is the end of the answer
        for piece in pieces:
            self._send_event({"delta": {"content": piece}})
        self._send_event({"delta": {}, "finish_reason": "stop"})

    def _send_event(self, choice: dict[str, object]) -> None:
        self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())

    def _send(self, kind: str, body: str) -> None:
        data = body.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def model_server(handler: type[ModelHandler]) -> Iterator[str]:
    """Yields the address, for LLM_BASE_URL and STT_BASE_URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join(10)
