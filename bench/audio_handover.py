"""Hands audio of many streams from one process to another in three ways: CPU time per slice on both sides, and latency.

    python -m bench.audio_handover                            256 streams, slices of one frame
    python -m bench.audio_handover --streams 500 --frames 5 --rounds 2

stream sockets: a Unix socket for each stream, as between the service's workers.
one socket: all streams on one Unix socket, with everything that is sent in one iteration of the loop in one write.
shared memory: the same, but samples lie in memory that both processes map; the socket carries where they are.

Every stream gets a slice each 80 ms, all at once, as from an engine. Latency is from the moment that the slices of an
80 ms tick are made until the reader of a stream has its slice. The three take turns, and medians over the rounds are
printed. CPU time is independent of other load on the machine, latency is not. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import mmap
import os
import socket
import statistics
import struct
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import uvloop

from app.pool.framing import audio_message, read_audio, receive
from engine import FRAME_SAMPLES, AudioChunk

from .cpu_info import cpu_name

TICK_SECONDS = 0.08
CODEBOOKS = 32
WINDOW_BYTES = 64 << 10  # of a stream that may be under way
_FRAME = struct.Struct("=IBI")  # stream, kind, length of the payload
_PLACE = struct.Struct("=II")  # offset in the stream's part of the shared memory, length
_INLINE, _SHARED, _TAKEN, _START = range(4)

Send = Callable[[int, bytes], Awaitable[None]]


@dataclass(frozen=True)
class Handover:
    """sender_us, receiver_us: CPU time per slice. Latencies in ms."""

    transport: str
    sender_us: float
    receiver_us: float
    latency_p50_ms: float
    latency_p95_ms: float


class Queue:
    """Slices of one stream, for one reader."""

    def __init__(self) -> None:
        self._items: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: bytes) -> None:
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> bytes:
        while not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._items.popleft()


class Channel(asyncio.Protocol):
    """All streams on one connection. on_message: called with the stream, the kind and the payload."""

    def __init__(self, on_message: Callable[[int, int, memoryview], None]) -> None:
        self._on_message = on_message
        self._out: list[bytes] = []
        self._rest = b""
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's has another base class

    def send(self, stream: int, kind: int, payload: bytes = b"") -> None:
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out += (_FRAME.pack(stream, kind, len(payload)), payload)

    def _flush(self) -> None:
        out, self._out = self._out, []
        self.transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        data, at = self._rest + data, 0
        view = memoryview(data)
        while len(data) - at >= _FRAME.size:
            stream, kind, length = _FRAME.unpack_from(data, at)
            start = at + _FRAME.size
            if len(data) - start < length:
                break
            at = start + length
            self._on_message(stream, kind, view[start:at])
        self._rest = data[at:]

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set()


class Bench:
    """One transport between a sender, which is forked, and this process."""

    def __init__(self, transport: str, streams: int, ticks: int, frames: int, path: Path) -> None:
        self.transport, self.streams, self.ticks, self.path = transport, streams, ticks, path
        self._samples = np.random.default_rng(0).standard_normal(frames * FRAME_SAMPLES).astype(np.float32)
        self._codes = np.zeros((frames, CODEBOOKS), np.int64)
        self._part = 2 * WINDOW_BYTES + 2 * len(self._slice())  # bytes of the shared memory for each stream
        self._ready = -1  # the sender writes a byte once it listens
        self._memory = memoryview(mmap.mmap(-1, streams * self._part)) if transport == "shared memory" else None

    def run(self) -> Handover:
        from_sender, to_parent = os.pipe()
        self._ready = to_parent
        over_sockets = self.transport == "stream sockets"
        if os.fork() == 0:
            try:
                seconds = uvloop.run(self._send_over_sockets() if over_sockets else self._send_over_one())
                os.write(to_parent, struct.pack("=d", seconds))
            finally:
                os._exit(0)
        os.read(from_sender, 1)  # it listens
        received, ages = uvloop.run(self._receive_over_sockets() if over_sockets else self._receive_over_one())
        (sent,) = struct.unpack("=d", os.read(from_sender, 8))
        os.wait()
        os.close(from_sender)
        os.close(to_parent)
        slices, ages = self.streams * self.ticks, sorted(ages)
        p50, p95 = (ages[math.ceil(share * slices) - 1] * 1e3 for share in (0.5, 0.95))
        return Handover(self.transport, sent / slices * 1e6, received / slices * 1e6, p50, p95)

    def _slice(self) -> bytes:
        """A slice that holds the time in place of its first two samples."""
        samples = self._samples.copy()
        samples[:2] = np.array([time.monotonic()]).view(np.float32)
        return audio_message(AudioChunk(samples, self._codes))

    async def _produce(self, send: Send) -> float:
        """Send a slice of every stream each tick, from a task for each stream. Returns the CPU seconds."""
        queues = [Queue() for _ in range(self.streams)]

        async def forward(stream: int) -> None:
            for _ in range(self.ticks):
                await send(stream, await queues[stream].get())

        started = time.process_time()
        tasks = [asyncio.create_task(forward(stream)) for stream in range(self.streams)]
        for _ in range(self.ticks):
            due = time.monotonic() + TICK_SECONDS
            for queue in queues:
                queue.put(self._slice())
            await asyncio.sleep(max(due - time.monotonic(), 0.0))
        await asyncio.gather(*tasks)
        return time.process_time() - started

    async def _consume(self, read: Callable[[int], Awaitable[bytes]]) -> tuple[float, list[float]]:
        """Read every stream in a task of its own. Returns the CPU seconds and the age of each slice in seconds."""
        ages: list[float] = []

        async def listen(stream: int) -> None:
            for _ in range(self.ticks):
                chunk = read_audio(await read(stream))
                ages.append(time.monotonic() - float(chunk.samples[:2].copy().view(np.float64)[0]))

        started = time.process_time()
        await asyncio.gather(*(listen(stream) for stream in range(self.streams)))
        return time.process_time() - started, ages

    # ---- a socket for each stream

    async def _send_over_sockets(self) -> float:
        writers: dict[int, asyncio.StreamWriter] = {}
        complete = asyncio.Event()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.set_write_buffer_limits(high=0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WINDOW_BYTES)
            writers[int.from_bytes(await reader.readexactly(4), "little")] = writer
            if len(writers) == self.streams:
                complete.set()

        async def send(stream: int, slice_: bytes) -> None:
            writers[stream].write(slice_)
            await writers[stream].drain()

        await asyncio.start_unix_server(accept, self.path, backlog=self.streams)
        os.write(self._ready, b"x")
        await complete.wait()
        return await self._produce(send)

    async def _receive_over_sockets(self) -> tuple[float, list[float]]:
        readers, writers = [], []
        for stream in range(self.streams):
            reader, writer = await asyncio.open_unix_connection(self.path, limit=WINDOW_BYTES // 2)
            writer.write(stream.to_bytes(4, "little"))
            readers.append(reader)
            writers.append(writer)

        async def read(stream: int) -> bytes:
            return (await receive(readers[stream]))[1]

        return await self._consume(read)

    # ---- one socket, with or without shared memory

    async def _send_over_one(self) -> float:
        unread, ends = [0] * self.streams, [0] * self.streams
        room = [asyncio.Event() for _ in range(self.streams)]
        started = asyncio.Event()
        channels: list[Channel] = []

        def on_message(stream: int, kind: int, payload: memoryview) -> None:
            if kind == _START:
                started.set()
            else:
                unread[stream] -= int.from_bytes(payload, "little")
                room[stream].set()

        def accept() -> Channel:
            channels.append(Channel(on_message))
            return channels[-1]

        async def send(stream: int, slice_: bytes) -> None:
            while unread[stream] >= WINDOW_BYTES:
                room[stream].clear()
                await room[stream].wait()
            unread[stream] += len(slice_)
            if self._memory is None:
                channels[0].send(stream, _INLINE, slice_)
                return
            at = ends[stream] if ends[stream] + len(slice_) <= self._part else 0
            ends[stream] = at + len(slice_)
            self._memory[stream * self._part + at :][: len(slice_)] = slice_
            channels[0].send(stream, _SHARED, _PLACE.pack(at, len(slice_)))

        await asyncio.get_running_loop().create_unix_server(accept, self.path)
        os.write(self._ready, b"x")
        await started.wait()
        seconds = await self._produce(send)
        await channels[0].closed.wait()
        return seconds

    async def _receive_over_one(self) -> tuple[float, list[float]]:
        queues, taken = [Queue() for _ in range(self.streams)], [0] * self.streams

        def on_message(stream: int, kind: int, payload: memoryview) -> None:
            if kind == _SHARED:
                assert self._memory is not None
                at, length = _PLACE.unpack(payload)
                payload = self._memory[stream * self._part + at :][:length]
            queues[stream].put(bytes(payload))

        _, channel = await asyncio.get_running_loop().create_unix_connection(
            lambda: Channel(on_message), str(self.path)
        )
        channel.send(0, _START)

        async def read(stream: int) -> bytes:
            slice_ = await queues[stream].get()
            taken[stream] += len(slice_)
            if taken[stream] >= WINDOW_BYTES // 2:
                channel.send(stream, _TAKEN, taken[stream].to_bytes(4, "little"))
                taken[stream] = 0
            return slice_[5:]  # without the kind and the length

        result = await self._consume(read)
        channel.transport.close()
        return result


TRANSPORTS = ("stream sockets", "one socket", "shared memory")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=256, help="(default 256)")
    parser.add_argument("--frames", type=int, default=1, help="of 80 ms in a slice (default 1)")
    parser.add_argument("--ticks", type=int, default=50, help="slices of each stream in a round (default 50)")
    parser.add_argument("--rounds", type=int, default=3, help="(default 3)")
    chosen = parser.parse_args(arguments)
    results: dict[str, list[Handover]] = {each: [] for each in TRANSPORTS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(chosen.rounds):
            for transport, found in results.items():
                path = Path(folder) / f"{number}-{len(transport)}"
                found.append(Bench(transport, chosen.streams, chosen.ticks, chosen.frames, path).run())
    print(f"{cpu_name()}; {chosen.streams} streams, slices of {chosen.frames} frames")
    medians = []
    for transport, found in results.items():
        columns = zip(*(list(asdict(each).values())[1:] for each in found), strict=True)
        medians.append(Handover(transport, *(round(statistics.median(each), 2) for each in columns)))
        each = medians[-1]
        print(
            f"{transport:>15}  sender {each.sender_us:6.1f} us  receiver {each.receiver_us:6.1f} us  "
            f"latency p50 {each.latency_p50_ms:6.2f} ms, p95 {each.latency_p95_ms:6.2f} ms"
        )
    print(json.dumps({"benchmark": "audio_handover", **vars(chosen), "results": [asdict(each) for each in medians]}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
