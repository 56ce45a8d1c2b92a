"""Client process: runs a share of a trial's clients in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import time
from collections.abc import Coroutine, Iterator, MutableSequence
from dataclasses import dataclass, field

from .audio_meters import METERS, SAMPLE_RATE
from .http_client import AudioConnection, HttpStream
from .stream_timing import End, RequestResult, StreamTiming
from .trial import Trial
from .websocket_client import WebSocketStream

_PAUSE_SECONDS = 0.5  # before a client retries after a failed request
ACTIVE, ENDED, UNANSWERED = range(3)  # columns of a process's row in the live counters
COLUMNS = 3


@dataclass
class ClientResults:
    """Results of one client process: all ended requests, and the audio that arrived in the measured seconds.

    cpu_seconds: CPU time of the client process.
    """

    requests: list[RequestResult] = field(default_factory=list)
    window_samples: int = 0
    cpu_seconds: float = 0.0

    @property
    def window_audio(self) -> float:
        """Seconds of audio."""
        return self.window_samples / SAMPLE_RATE


def run_clients(trial: Trial, index: int, shares: int, start: float, counts: MutableSequence[int]) -> ClientResults:
    """Run every `shares`-th client of the trial, from `index` on. start: of the trial, by time.monotonic().

    counts: live counters of all processes; this one writes its own row.
    """
    _raise_file_limit()
    cpu_start = time.process_time()
    results = asyncio.run(_ClientProcess(trial, index, shares, start, counts).run())
    results.cpu_seconds = time.process_time() - cpu_start
    return results


class _ClientProcess:
    def __init__(self, trial: Trial, index: int, shares: int, start: float, counts: MutableSequence[int]) -> None:
        self._trial, self._index, self._shares, self._start = trial, index, shares, start
        self._counts, self._row = counts, index * COLUMNS
        self._window_start, self._window_end = start + trial.ramp, start + trial.ramp + trial.seconds
        self._deadline = start + trial.max_seconds
        self._results = ClientResults()
        self._measured: set[asyncio.Task[RequestResult]] = set()

    async def run(self) -> ClientResults:
        if self._trial.loop == "closed":
            loops = self._closed_loop()
        else:
            loops = [self._open_loop() if self._trial.loop == "open" else self._burst()]
        senders = [asyncio.create_task(sender) for sender in loops]
        await _sleep_until(self._window_end)
        if self._measured:
            await asyncio.wait(self._measured, timeout=max(self._deadline - time.monotonic(), 0.0))
        everything = asyncio.all_tasks() - {asyncio.current_task()}
        for task in everything:
            task.cancel()
        for result in await asyncio.gather(*senders, *everything, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        return self._results

    # ---- request scheduling

    def _closed_loop(self) -> list[Coroutine[None, None, None]]:
        count = int(self._trial.load)
        return [self._client(number, count) for number in range(self._index, count, self._shares)]

    async def _client(self, number: int, count: int) -> None:
        due = self._start + self._trial.ramp * number / count
        sent = 0
        while due < self._deadline:
            await _sleep_until(due)
            result = await self._send(number + sent * count, due)
            sent += 1
            due = time.monotonic() + (0.0 if result.answered else _PAUSE_SECONDS)

    async def _open_loop(self) -> None:
        """Independent Poisson processes add up to one, so each client process runs its own."""
        rng = random.Random(self._trial.seed * self._shares + self._index)
        number, due = self._index, self._start
        while (due := due + rng.expovariate(self._trial.load / self._shares)) < self._deadline:
            await _sleep_until(due)
            self._send(number, due)
            number += self._shares

    async def _burst(self) -> None:
        await _sleep_until(self._window_start)
        for number in range(self._index, int(self._trial.load), self._shares):
            self._send(number, self._window_start)

    # ---- one request

    def _send(self, number: int, due: float) -> asyncio.Task[RequestResult]:
        measured = self._window_start <= due < self._window_end
        task = asyncio.create_task(self._run_request(number, due, measured))
        if measured:
            self._measured.add(task)
            task.add_done_callback(self._measured.discard)
        return task

    async def _run_request(self, number: int, due: float, measured: bool) -> RequestResult:
        trial = self._trial
        request = trial.track.request(trial.address, number)
        sent = time.monotonic()
        timing = StreamTiming(sent)
        connection = self._connection(number, request, timing)
        connected, in_time = False, True
        with self._count_active():
            try:
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, trial.address.host, trial.address.port
                )
                connected = True
                await connection.closed
            except OSError:
                pass
            except asyncio.CancelledError:
                in_time = False
                raise
            finally:
                connection.abort()
                result = RequestResult(
                    measured=measured,
                    sent=sent - self._start,
                    late=max(sent - due, 0.0),
                    ended=time.monotonic() - self._start,
                    end=_end(connection, timing, connected, in_time),
                    status=connection.status,
                    first_audio=timing.first_audio,
                    audio=timing.audio,
                    underrun=timing.underrun,
                    gap=timing.gap,
                )
                self._results.requests.append(result)
                self._counts[self._row + ENDED] += 1
                self._counts[self._row + UNANSWERED] += not result.answered
        return result

    def _connection(self, number: int, request: bytes, timing: StreamTiming) -> AudioConnection:
        def on_audio(now: float, samples: int) -> None:
            timing.add(now, samples)
            if self._window_start <= now < self._window_end:
                self._results.window_samples += samples

        track = self._trial.track
        if track.uses_websocket:
            return WebSocketStream(request, track.parameters(number), on_audio)
        return HttpStream(request, METERS[track.format](), on_audio)

    @contextlib.contextmanager
    def _count_active(self) -> Iterator[None]:
        self._counts[self._row + ACTIVE] += 1
        try:
            yield
        finally:
            self._counts[self._row + ACTIVE] -= 1


def _end(connection: AudioConnection, timing: StreamTiming, connected: bool, in_time: bool) -> End:
    if connection.status is not None and connection.status != 200:
        return "rejected"
    if timing.first is None:
        return "silent" if connected else "unreachable"
    if connection.complete:
        return "whole"
    return "cut" if in_time else "left"


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(max(moment - time.monotonic(), 0.0))


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
