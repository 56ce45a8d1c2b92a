"""Ctrl-C in `csm-serve chat` and `csm-serve talk`, on a terminal of their own."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from app.audio.encoders.wav import wav_file
from tests.app.realtime.harness import silence, speech
from tests.integration.shared import KEY, Server, serving
from tests.model_server import ModelHandler, model_server

ROOT = Path(__file__).resolve().parents[2]
INTERRUPTED = 130
BEGINNING = "Let me think."
SECONDS = 60.0


class Models(ModelHandler):
    """A recogniser, and a language model that begins an answer and never ends it."""

    released: threading.Event  # ends all answers

    def answer(self) -> None:
        self.read_body()
        if self.transcribes:
            self.send_transcript("Hello there.")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        piece = {"choices": [{"delta": {"content": f"{BEGINNING} And "}}]}
        self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())
        self.wfile.flush()
        self.released.wait(SECONDS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    Models.released = threading.Event()
    with model_server(Models) as url:
        try:
            with serving(
                tmp_path_factory.mktemp("terminal"),
                LLM_BASE_URL=url,
                LLM_MODEL="test",
                STT_BASE_URL=url,
                NO_PROXY="127.0.0.1",
            ) as server:
                yield server
        finally:
            Models.released.set()


class Terminal:
    """A command on a terminal. Its output, errors included, is read until something is in it."""

    def __init__(self, server: Server, folder: Path, *command: str) -> None:
        self.output = b""
        self._master, terminal = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb", "CSM_URL": server.url, "API_KEY": KEY},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509
        )
        os.close(terminal)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def read_until(self, pattern: str, start: int = 0) -> int:
        """Read until a pattern is in the output after a place. Returns the place behind it."""
        ends = time.monotonic() + SECONDS
        while (found := re.search(pattern.encode(), self.output[start:])) is None:
            assert self._read(ends), self.output
        return start + found.end()

    def read_to_the_end(self) -> int:
        """Returns the exit status."""
        ends = time.monotonic() + SECONDS
        while self._read(ends):
            pass
        return self.process.wait(SECONDS)

    def _read(self, ends: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(ends - time.monotonic(), 0))
        try:
            data = os.read(self._master, 65536) if ready else b""
        except OSError:  # nobody has the terminal open any more
            return False
        self.output += data
        return bool(data)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)
        os.close(self._master)


def _take_terminal() -> None:
    """In the child: Ctrl-C on its standard input reaches it, also where whoever runs the tests ignores interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def terminal(server: Server, folder: Path, *command: str) -> Iterator[Terminal]:
    opened = Terminal(server, folder, *command)
    try:
        yield opened
    finally:
        opened.close()


def outcomes(server: Server) -> list[str]:
    """Of answers and conversations."""
    return re.findall(r"path=/v1/realtime .*?outcome=(\w+)", server.log)


def test_an_interrupt_ends_an_answer_of_a_chat_and_another_the_chat(server: Server, tmp_path: Path) -> None:
    before = len(outcomes(server))
    with terminal(server, tmp_path, "chat", "-o", "spoken") as chat:
        chat.read_until("> ")
        chat.type("Hello.\n")
        begun = chat.read_until(re.escape(BEGINNING))
        chat.type("\x03")
        prompt = chat.read_until("> ", begun)
        server.wait_until(lambda: outcomes(server)[before:] == ["left"])
        chat.type("/history\n")
        chat.read_until("Assistant: ", prompt)
        prompt = chat.read_until("> ", prompt)
        chat.type("\x03")
        assert chat.read_to_the_end() == INTERRUPTED, chat.output
        assert b"Traceback" not in chat.output
        assert b"KeyboardInterrupt" not in chat.output


def test_an_interrupt_ends_a_talk_and_its_recording_is_written(server: Server, tmp_path: Path) -> None:
    recording = np.concatenate([silence(0.3), speech()[:36_000], silence(90)])
    (tmp_path / "in.wav").write_bytes(wav_file(recording.astype(np.float32) / 32768))
    with terminal(server, tmp_path, "talk", "--input", "in.wav", "--output", "out.wav") as talk:
        begun = talk.read_until("You: Hello there.")
        talk.read_until(f"Assistant: {re.escape(BEGINNING)}", begun)
        talk.type("\x03")
        assert talk.read_to_the_end() == INTERRUPTED, talk.output
        assert b"Traceback" not in talk.output
        assert b"KeyboardInterrupt" not in talk.output
    with wave.open(str(tmp_path / "out.wav")) as file:
        assert 0 < file.getnframes() < recording.size
