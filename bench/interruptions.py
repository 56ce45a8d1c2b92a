"""Milliseconds from an interruption of an answer to its last audio and to its free slot, over the Realtime protocol.

    python -m bench.interruptions                                       csm-mini on this machine's CPU
    python -m bench.interruptions --serve fake:frame_seconds=0.04       the fake engine, a frame of 40 ms

The application runs in this process, so that nothing is measured but the service. An answer is interrupted after some
audio, by response.cancel or by the user's speech; the time of speech is that of its detection, when the service sends
`input_audio_buffer.speech_started`. The slot is free once the engine's row is. The floor is the frame that is being
computed. The last line is JSON. No socket is opened.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import statistics
import sys
import tempfile
import time
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.main import create_app
from app.settings_loader import load_settings

from .cpu_info import cpu_name
from .module_path import ROOT

_KEY = "bench"
_TEXT = "This answer is long enough to be interrupted, since it goes on and on, and has more to say after that. " * 3
_RECORDING = ROOT / "models" / "csm-mini" / "voices" / "anna.wav"  # 24 kHz, mono, 16 bits
_PIECE_BYTES = 2 * 24 * 32  # 32 ms
_SECONDS = 120.0  # that any wait may take


@dataclass(frozen=True)
class Interruption:
    """Seconds after it: of the last audio (0 if none came), and until the slot was free."""

    last_audio: float
    slot_free: float


class _Client:
    """One connection of the protocol, without a socket."""

    def __init__(self, app: Any) -> None:
        self.sent: list[tuple[float, dict[str, Any]]] = []  # by the service, with the time
        self._changed = asyncio.Event()
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._inbox.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket", "asgi": {"version": "3.0", "spec_version": "2.4"}, "path": "/v1/realtime",
            "query_string": b"", "headers": [(b"authorization", f"Bearer {_KEY}".encode())], "subprotocols": [],
            "extensions": {}, "state": {},
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._inbox.get, self._take))

    async def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            self.sent.append((time.monotonic(), json.loads(message["text"])))
        self._changed.set()

    def send(self, kind: str, **fields: Any) -> None:
        self._inbox.put_nowait({"type": "websocket.receive", "text": json.dumps({"type": kind, **fields})})

    def times(self, kind: str) -> list[float]:
        return [at for at, event in self.sent if event["type"] == kind]

    async def until(self, kind: str, count: int = 1) -> float:
        """Wait for so many events of a type. Returns the time of the last of them."""
        async with asyncio.timeout(_SECONDS):
            while len(found := self.times(kind)) < count:
                self._changed.clear()
                await self._changed.wait()
        return found[count - 1]

    async def leave(self) -> None:
        self._inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self.task


async def interrupt(app: Any, *, by_speech: bool) -> Interruption:
    """Let the service answer, and interrupt it."""
    engine, client = app.state.service.host.engine, _Client(app)
    await client.until("session.created")
    part = {"type": "input_text", "text": _TEXT}
    client.send("conversation.item.create", item={"type": "message", "role": "user", "content": [part]})
    client.send("response.create")
    await client.until("response.output_audio.delta", 4)
    if by_speech:
        with wave.open(str(_RECORDING)) as recording:
            pcm = recording.readframes(recording.getframerate() * 3)
        for start in range(0, len(pcm), _PIECE_BYTES):
            client.send("input_audio_buffer.append", audio=base64.b64encode(pcm[start : start + _PIECE_BYTES]).decode())
        at = await client.until("input_audio_buffer.speech_started")
    else:
        client.send("response.cancel")
        at = time.monotonic()
    deadline = at + _SECONDS
    while engine.status().active:
        if time.monotonic() > deadline:
            raise TimeoutError("the slot was not freed")
        await asyncio.sleep(0.0005)
    freed = time.monotonic()
    await client.until("response.done")
    last = max(client.times("response.output_audio.delta"))
    await client.leave()
    return Interruption(max(last - at, 0.0), freed - at)


async def measure(model: str, times: int) -> dict[str, list[Interruption]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        os.environ.update(
            API_KEY=_KEY, MODEL_PATH=model, DEVICE="cpu", LOG_LEVEL="ERROR", CONCURRENT_REQUESTS_PER_WORKER="2",
            VOICES_DIR=str(Path(folder) / "voices"), PRELOADED_VOICES_DIR=str(Path(folder) / "preloaded"),
        )  # fmt: skip
        app = create_app(load_settings(None))
        async with app.router.lifespan_context(app):
            host = app.state.service.host
            while host.status().state != "ready":
                if host.status().state == "failed":
                    raise RuntimeError(host.status().error)
                await asyncio.sleep(0.05)
            found: dict[str, list[Interruption]] = {"response.cancel": [], "speech": []}
            for number in range(times + 1):  # the first of each warms up
                for name, kept in found.items():
                    measured = await interrupt(app, by_speech=name == "speech")
                    if number:
                        kept.append(measured)
            return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", metavar="MODEL", default=str(ROOT / "models" / "csm-mini"), help="default: csm-mini")
    parser.add_argument("--times", type=int, default=20, help="interruptions of each kind (default 20)")
    chosen = parser.parse_args(arguments)
    found = asyncio.run(measure(chosen.serve, max(chosen.times, 1)))
    print(f"{Path(chosen.serve).name}; {cpu_name()}\n{'ms after':<17}{'last audio':>22}{'free slot':>20}")
    results: dict[str, dict[str, float]] = {}
    for name, measured in found.items():
        spans = {
            "last_audio": [each.last_audio for each in measured],
            "slot_free": [each.slot_free for each in measured],
        }
        row = results[name] = {}
        for span, seconds in spans.items():
            row[f"{span}_median_ms"] = round(1000 * statistics.median(seconds), 1)
            row[f"{span}_worst_ms"] = round(1000 * max(seconds), 1)
        shown = [f"{row[f'{span}_median_ms']:.1f}, worst {row[f'{span}_worst_ms']:.1f}" for span in spans]
        print(f"{name:<17}{shown[0]:>22}{shown[1]:>20}")
    print(json.dumps({"model": Path(chosen.serve).name, "times": chosen.times, **results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
