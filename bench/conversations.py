"""Conversations that end in every way, for minutes: slots, tasks and memory are back at the start afterwards.

    python -m bench.conversations                          20 sessions, ten minutes
    python -m bench.conversations --minutes 1 --seed 7

The service runs in this process, with the fake engine, the echo in place of a language model, and a recogniser that
always hears the same words; voice activity detection is real. Its clients speak a recording at the speed of a
microphone or type, then listen, interrupt, cancel, close, or vanish in the middle of a turn or of an answer; each is
followed by another at once. A gap is where an answer's audio came later than a loudspeaker needed it. The last line is
JSON. Exits with status 1 if a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import ctypes
import gc
import json
import socket
import sys
import tempfile
import time
import wave
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from app.main import create_app
from app.observability.underruns import UnderrunMeter
from app.server.websocket_protocol import SpeechWebSocketProtocol
from app.settings import Settings
from engine import SAMPLE_RATE

KEY = "bench"
SESSIONS = 20
SETTLE_SECONDS = 30.0
# Allowed growth: of the process, for pages that are partly free; of what is in use in them; of threads, for pools that
# were not full.
MAX_MORE_MEMORY_MIB, MAX_MORE_IN_USE_MIB, MAX_MORE_THREADS = 24.0, 4.0, 8
WORDS = "Tell me how far it is to the harbour, and what there is to see along the way."
_RECORDING = Path(__file__).parent.parent / "preloaded-voices" / "kai.wav"
_SPEECH_SECONDS, _PIECE = 2.5, 4800  # a piece is 100 ms
_EXPECTED_ERRORS = {"response_cancel_not_active", "conversation_already_has_active_response"}


class HeardWords:
    """A recogniser that costs nothing."""

    name = "bench"

    async def transcribe(self, samples: Any, language: str | None = None, prompt: str | None = None) -> str:
        return WORDS

    async def close(self) -> None:
        pass


@dataclass(frozen=True)
class Resources:
    sessions: int
    active_slots: int
    tasks: int
    threads: int
    descriptors: int
    memory_mib: float
    in_use_mib: float
    python_blocks: int


class _HeapUse(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "top",
        )
    ]


def resources(app: FastAPI) -> Resources:
    """What is in use. Memory of the process is counted once glibc has given back the pages that are free.

    in_use_mib: of glibc's heaps, what is not free; 0 with another C library. python_blocks: of Python's own allocator.
    Both tell a leak from pages that are partly free.
    """
    gc.collect()
    in_use = 0
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.malloc_trim(0)
        libc.mallinfo2.restype = _HeapUse
        heap = libc.mallinfo2()
        in_use = heap.uordblks + heap.hblkhd
    process = psutil.Process()
    return Resources(
        app.state.realtime.sessions,
        app.state.service.host.load()[1],
        len(asyncio.all_tasks()),
        process.num_threads(),
        process.num_fds(),
        round(process.memory_info().rss / (1 << 20), 1),
        round(in_use / (1 << 20), 1),
        sys.getallocatedblocks(),
    )


class Client:
    """One connection: what arrives is read by a task of its own."""

    def __init__(self, connection: ClientConnection, counts: Counter[str]) -> None:
        self.connection, self.counts = connection, counts
        self.worst_gap = 0.0
        self._meters: dict[str, tuple[UnderrunMeter, list[int]]] = {}
        self.reader = asyncio.create_task(self._read())

    async def send(self, kind: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"type": kind, **fields}))

    async def _read(self) -> None:
        try:
            async for message in self.connection:
                event = json.loads(message)
                kind = event["type"]
                if kind == "response.output_audio.delta":
                    self._hear(event["response_id"], len(base64.b64decode(event["delta"])) // 2)
                elif kind == "response.done":
                    self.counts[f"answers {event['response']['status']}"] += 1
                elif kind == "error" and event["error"]["code"] not in _EXPECTED_ERRORS:
                    self.counts[f"WRONG {event['error']['code']}"] += 1
        except ConnectionClosed:
            pass

    def _hear(self, response: str, samples: int) -> None:
        meter, heard = self._meters.setdefault(response, (UnderrunMeter(), [0]))
        now = time.monotonic()
        meter.ready(now)
        heard[0] += samples
        meter.sent(now, heard[0] / SAMPLE_RATE)
        self.worst_gap = max(self.worst_gap, meter.worst)


class Soak:
    """url: of the service's conversations. speech: int16 PCM at 24 kHz, with the silence that ends a turn."""

    def __init__(self, url: str, speech: bytes, rng: Random) -> None:
        self._url, self._speech, self._rng = url, speech, rng
        self.counts: Counter[str] = Counter()
        self.gaps: list[float] = []  # the longest of each session

    async def run(self, seconds: float) -> None:
        ends = time.monotonic() + seconds

        async def visitor() -> None:
            while time.monotonic() < ends:
                await self._converse(ends)

        await asyncio.gather(*(visitor() for _ in range(SESSIONS)))

    async def _converse(self, ends: float) -> None:
        connection = await connect(self._url, additional_headers={"X-API-Key": KEY}, max_size=None)
        client = Client(connection, self.counts)
        end = self._rng.choice(["closed", "vanished", "vanished"])
        try:
            seconds = self._rng.uniform(1, 20) if end == "vanished" else 60.0
            async with asyncio.timeout(min(seconds, max(ends - time.monotonic(), 0.0))):
                for _ in range(self._rng.randint(1, 4)):
                    await self._take_turn(client)
        except TimeoutError:
            pass
        except ConnectionClosed as error:
            self.counts[f"WRONG connection closed: {error}"] += 1
        self.counts[f"sessions {end}"] += 1
        if end == "vanished":
            connection.transport.abort()
        await connection.close()
        with suppress(asyncio.CancelledError):
            await client.reader
        self.gaps.append(client.worst_gap)

    async def _take_turn(self, client: Client) -> None:
        if self._rng.random() < 0.6:
            for at in range(0, len(self._speech), _PIECE):
                piece = base64.b64encode(self._speech[at : at + _PIECE]).decode()
                await client.send("input_audio_buffer.append", audio=piece)
                await asyncio.sleep(_PIECE / 2 / SAMPLE_RATE)  # as a microphone does
        else:
            content = [{"type": "input_text", "text": WORDS}]
            await client.send("response.cancel")
            await client.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
            await client.send("response.create")
        action = self._rng.choice(["listens", "listens", "interrupts", "cancels"])
        self.counts[f"turns: user {action}"] += 1
        if action == "listens":
            await asyncio.sleep(self._rng.uniform(0, 8))
        elif action == "cancels":
            await asyncio.sleep(self._rng.uniform(0, 1))
            await client.send("response.cancel")


def _read_speech() -> bytes:
    with wave.open(str(_RECORDING)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (SAMPLE_RATE, 1, 2):
            raise ValueError(f"{_RECORDING} must be mono, 16 bits, {SAMPLE_RATE} Hz")
        return bytes(file.readframes(int(_SPEECH_SECONDS * SAMPLE_RATE))) + bytes(2 * SAMPLE_RATE)


async def soak(minutes: float, seed: int, warm_up: float = 10.0) -> dict[str, Any]:
    """Run it. Returns figures and checks. warm_up: seconds of the same load before the start is measured."""
    with (
        tempfile.TemporaryDirectory(prefix="conversations-") as folder,
        socket.create_server(("127.0.0.1", 0)) as bound,
    ):
        app = create_app(
            Settings(
                api_key=(SecretStr(KEY),),
                model_path="fake:frame_seconds=0.03",
                concurrent_requests_per_worker=SESSIONS,
                voices_dir=Path(folder) / "voices",
                log_level="WARNING",
            )
        )
        app.state.realtime.transcriber = HeardWords()
        config = uvicorn.Config(app, ws=SpeechWebSocketProtocol, log_level="warning", access_log=False)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        try:
            while app.state.service.host.status().state != "ready":
                await asyncio.sleep(0.05)
            load = Soak(f"ws://127.0.0.1:{bound.getsockname()[1]}/v1/realtime", _read_speech(), Random(seed))
            await load.run(warm_up)
            before = await _settled(app)
            load.counts.clear()
            load.gaps.clear()
            await load.run(60 * minutes)
            after = await _settled(app)
        finally:
            server.should_exit = True
            await serving
    gaps = sorted(load.gaps)
    return {
        "minutes": minutes,
        "seed": seed,
        "counts": dict(sorted(load.counts.items())),
        "sessions_with_a_gap": sum(gap > 0 for gap in gaps),
        "worst_gap_ms": round(1000 * max(gaps, default=0.0), 1),
        "before": asdict(before),
        "after": asdict(after),
        "checks": {
            "no session is left": after.sessions == 0,
            "no slot is taken": after.active_slots == 0,
            "tasks are back": after.tasks <= before.tasks,
            "threads are back": after.threads <= before.threads + MAX_MORE_THREADS,
            "descriptors are back": after.descriptors <= before.descriptors,
            "memory is back": after.memory_mib <= before.memory_mib + MAX_MORE_MEMORY_MIB,
            "no more is in use in glibc's heaps": after.in_use_mib <= before.in_use_mib + MAX_MORE_IN_USE_MIB,
            "no more is in use in Python's": after.python_blocks <= before.python_blocks * 1.02,
            "answers were completed": load.counts["answers completed"] > 0,
            "nothing unexpected was sent": not any(name.startswith("WRONG") for name in load.counts),
        },
    }


async def _settled(app: FastAPI) -> Resources:
    """Once nobody is connected and no slot taken, or after SETTLE_SECONDS."""
    ends = time.monotonic() + SETTLE_SECONDS
    found, same_since = resources(app), time.monotonic()
    while (now := time.monotonic()) < ends and (found.sessions or found.active_slots or now - same_since < 1):
        await asyncio.sleep(0.1)
        newest = resources(app)
        if newest.tasks != found.tasks or newest.descriptors != found.descriptors:
            same_since = now
        found = newest
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--warm-up", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=1)
    parsed = parser.parse_args(arguments)
    result = asyncio.run(soak(parsed.minutes, parsed.seed, parsed.warm_up))
    for name, number in result["counts"].items():
        print(f"{number:6} {name}")
    for name, holds in result["checks"].items():
        print(f"{'ok  ' if holds else 'FAIL'} {name}")
    print(json.dumps(result))
    return 0 if all(result["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
