"""A process's share of the listeners of a trial."""

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

_PAUSE_SECONDS = 0.5  # of a listener that was not answered: it does not ask again in a loop
ACTIVE, ENDED, UNANSWERED = range(3)  # the columns of a process's row in the live counts
COLUMNS = 3


@dataclass
class ClientResults:
    """What a share has to tell: every request that ended, and the audio that came in the measured seconds.

    processor: seconds that listening itself took.
    """

    outcomes: list[RequestResult] = field(default_factory=list)
    window_samples: int = 0
    processor: float = 0.0

    @property
    def window_audio(self) -> float:
        """Seconds."""
        return self.window_samples / SAMPLE_RATE


def run_clients(trial: Trial, index: int, shares: int, starts: float, counts: MutableSequence[int]) -> ClientResults:
    """Be every `shares`-th listener, from `index` on. starts: when the trial does (time.monotonic()).

    counts: live counts of all processes; this one writes its own row.
    """
    _allow_many_connections()
    began = time.process_time()
    heard = asyncio.run(_ClientProcess(trial, index, shares, starts, counts).run())
    heard.processor = time.process_time() - began
    return heard


class _ClientProcess:
    def __init__(self, trial: Trial, index: int, shares: int, starts: float, counts: MutableSequence[int]) -> None:
        self._trial, self._index, self._shares, self._starts = trial, index, shares, starts
        self._counts, self._row = counts, index * COLUMNS
        self._opens, self._closes = starts + trial.ramp, starts + trial.ramp + trial.seconds
        self._ends = starts + trial.longest
        self._heard = ClientResults()
        self._measured: set[asyncio.Task[RequestResult]] = set()

    async def run(self) -> ClientResults:
        closed = self._trial.loop == "closed"
        senders = [asyncio.create_task(sender) for sender in (self._listeners() if closed else [self._arrivals()])]
        await _until(self._closes)
        if self._measured:
            await asyncio.wait(self._measured, timeout=max(self._ends - time.monotonic(), 0.0))
        everything = asyncio.all_tasks() - {asyncio.current_task()}
        for task in everything:
            task.cancel()
        for result in await asyncio.gather(*senders, *everything, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        return self._heard

    # ---- who asks when

    def _listeners(self) -> list[Coroutine[None, None, None]]:
        count = int(self._trial.load)
        return [self._listener(number, count) for number in range(self._index, count, self._shares)]

    async def _listener(self, number: int, count: int) -> None:
        due = self._starts + self._trial.ramp * number / count
        asked = 0
        while due < self._ends:
            await _until(due)
            outcome = await self._ask(number + asked * count, due)
            asked += 1
            due = time.monotonic() + (0.0 if outcome.answered else _PAUSE_SECONDS)

    async def _arrivals(self) -> None:
        """Poisson streams added up are one again, so each process has its own."""
        chance = random.Random(self._trial.seed * self._shares + self._index)
        number, due = self._index, self._starts
        while (due := due + chance.expovariate(self._trial.load / self._shares)) < self._ends:
            await _until(due)
            self._ask(number, due)
            number += self._shares

    # ---- one request

    def _ask(self, number: int, due: float) -> asyncio.Task[RequestResult]:
        measured = self._opens <= due < self._closes
        task = asyncio.create_task(self._hear_out(number, due, measured))
        if measured:
            self._measured.add(task)
            task.add_done_callback(self._measured.discard)
        return task

    async def _hear_out(self, number: int, due: float, measured: bool) -> RequestResult:
        trial = self._trial
        request = trial.track.request(trial.address, number)
        sent = time.monotonic()
        hearing = StreamTiming(sent)
        answer = self._answer(number, request, hearing)
        reached, in_time = False, True
        with self._speaking():
            try:
                await asyncio.get_running_loop().create_connection(
                    lambda: answer, trial.address.host, trial.address.port
                )
                reached = True
                await answer.over
            except OSError:
                pass
            except asyncio.CancelledError:
                in_time = False
                raise
            finally:
                answer.leave()
                outcome = RequestResult(
                    measured=measured,
                    sent=sent - self._starts,
                    late=max(sent - due, 0.0),
                    ended=time.monotonic() - self._starts,
                    end=_end(answer, hearing, reached, in_time),
                    status=answer.status,
                    first_audio=hearing.first_audio,
                    audio=hearing.audio,
                    underrun=hearing.underrun,
                    gap=hearing.gap,
                )
                self._heard.outcomes.append(outcome)
                self._counts[self._row + ENDED] += 1
                self._counts[self._row + UNANSWERED] += not outcome.answered
        return outcome

    def _answer(self, number: int, request: bytes, hearing: StreamTiming) -> AudioConnection:
        def on_audio(now: float, samples: int) -> None:
            hearing.hear(now, samples)
            if self._opens <= now < self._closes:
                self._heard.window_samples += samples

        track = self._trial.track
        if track.uses_websocket:
            return WebSocketStream(request, track.parameters(number), on_audio)
        return HttpStream(request, METERS[track.format](), on_audio)

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        self._counts[self._row + ACTIVE] += 1
        try:
            yield
        finally:
            self._counts[self._row + ACTIVE] -= 1


def _end(answer: AudioConnection, hearing: StreamTiming, reached: bool, in_time: bool) -> End:
    if answer.status is not None and answer.status != 200:
        return "rejected"
    if hearing.first is None:
        return "silent" if reached else "unreachable"
    if answer.whole:
        return "whole"
    return "cut" if in_time else "left"


async def _until(moment: float) -> None:
    await asyncio.sleep(max(moment - time.monotonic(), 0.0))


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
