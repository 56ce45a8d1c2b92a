"""Dispatches one speech request to the least-loaded worker, and to another one if that worker dies."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from engine import FRAME_MILLISECONDS, SAMPLE_RATE, AudioChunk

from ..access.limiter import KeyLimiter, KeyUse
from ..access.shared_counts import SharedCounts
from ..errors import Busy, EngineBroke, ServiceError, Unavailable
from ..observability.request_log import RequestRecord
from ..schemas.speech import SpeechJob
from .delivered_audio import DeliveredAudio, Replay, SpeechDiffers
from .engine_host import EngineHost
from .framing import ConnectionBroken
from .local import LocalSpeech, open_local_speech
from .remote import RemoteSpeech, open_remote_speech
from .speech_server import socket_path
from .worker_registry import STALE_SECONDS, WorkerRegistry

_log = logging.getLogger(__name__)

RECHECK_SECONDS = 0.1  # how often a waiting request checks whether another worker has a free slot
_OVERTIME_SECONDS = 1.0  # beyond the deadline, for a worker to report the timeout itself; one that hangs does not

MAX_RESUMES = 3  # of one stream
SAME_PLACE = SAMPLE_RATE  # samples: two workers that died so near each other may have died of the request itself


class Dispatcher:
    """Sends speech requests to the workers of the pool, this one included.

    index: of this worker in the registry; its requests hold their permits under it.
    host: the engine of this worker; None: all requests go to other workers.
    sockets: a private folder with a socket for each worker; None if there is only one worker.
    max_wait: seconds that a request may wait for a slot, over all workers together; a resumed stream as long again.
    limiter: of API keys; by default for this process alone.
    resumes: a stream whose worker died goes on at another one.
    on_resume: called when a stream goes on (True), or had to be cut after its worker died (False).
    """

    def __init__(
        self, registry: WorkerRegistry, index: int, host: EngineHost | None, sockets: Path | None, max_wait: float
    ) -> None:
        self.registry = registry
        self.index = index
        self.max_wait = max_wait
        self.limiter = KeyLimiter(SharedCounts())
        self.active = 0  # requests that wait for a slot or stream speech
        self.resumes = True
        self.on_resume: Callable[[bool], None] = lambda goes_on: None
        self.draining = False  # this worker is shutting down: `unavailable` then reports that
        self._host = host
        self._sockets = sockets

    @asynccontextmanager
    async def dispatch(self, job: SpeechJob, record: RequestRecord | None) -> AsyncIterator[DispatchedSpeech]:
        """Stream the speech of a job from the least-loaded worker: `async with dispatch(job, record) as speech`.

        record: of the request; its key is charged, and has its share of the slots. None: no limits.
        Entering waits until a worker has given it a slot; leaving, at any time, frees that slot at once. A worker
        that refuses, dies or hangs before the first chunk, is skipped, and the next one is tried. If the worker dies
        later, another one speaks the same job from the start, and the stream goes on behind what was delivered.
        `async for chunk in speech` yields engine.AudioChunk. From the first chunk on, `speech.engine_name`
        (X-TTS-Engine) no longer changes, and `speech.worker_id` (X-Worker-ID) only if the stream is resumed.
        Entering and iterating raise ServiceError and nothing else: LimitReached if the key has used up a limit,
        Unauthorized if it was removed, Busy if all workers are full, Unavailable if none is ready, UnknownVoice,
        Unprocessable or EngineBroke. Before the first chunk that is an error response; after it the stream is broken
        and has to be cut.
        """
        self.active += 1
        try:
            async with (
                self._charged(job, record) as (job, use),
                aclosing(DispatchedSpeech(self, self._with_seed(job), use)) as speech,
            ):
                await speech.start()
                yield speech
        finally:
            self.active -= 1

    def _with_seed(self, job: SpeechJob) -> SpeechJob:
        """The job with a seed, so that another worker can speak it again; the engine would draw one."""
        if job.request.seed is not None or not self.resumes or self._sockets is None:
            return job
        return replace(job, request=replace(job.request, seed=random.getrandbits(63)))

    @asynccontextmanager
    async def _charged(self, job: SpeechJob, record: RequestRecord | None) -> AsyncIterator[tuple[SpeechJob, KeyUse]]:
        """Charge the job to the key of its request while the context lasts. Yields the job with its key and trace."""
        if record is not None and record.trace is not None:
            job = replace(job, traceparent=record.trace.traceparent)
        if record is None or record.key is None:
            yield job, KeyUse()
            return
        key = self.limiter.current(record.key)
        frames = job.request.max_frames
        async with self.limiter.use(
            key,
            permits=job.permits,
            characters=len(job.request.text),
            max_seconds=None if frames is None else frames * FRAME_MILLISECONDS / 1000,
            continues=record.admitted,
        ) as use:
            yield replace(job, key=key.name, weight=key.weight), use

    def open_source(
        self, target: int, job: SpeechJob, wait: float, on_admitted: Callable[[], None]
    ) -> AbstractAsyncContextManager[LocalSpeech | RemoteSpeech]:
        """The speech of a job from one worker, in this process or over its socket."""
        if self._host is not None and (target == self.index or self._sockets is None):
            return open_local_speech(self._host, job, wait=wait, on_admitted=on_admitted)
        assert self._sockets is not None, "a worker without an engine has others"
        return open_remote_speech(socket_path(self._sockets, target), job, wait=wait, on_admitted=on_admitted)

    def unavailable(self) -> Unavailable:
        """The error for a request while no worker is ready."""
        records = self.registry.engines()
        states = {each.state for each in records}
        if self.draining or (states & {"draining"} and states <= {"draining", "empty"}):
            return Unavailable("the service is shutting down: try again soon", code="draining")
        loading = next((each for each in records if each.state == "loading"), None)
        if loading is not None:
            progress = f"{loading.progress:.0%}, {loading.doing}"
            return Unavailable(f"the engine is starting ({progress}): try again soon", code="starting")
        if states != {"failed"}:
            return Unavailable("the engine is being started: try again soon", code="starting")
        reasons = "; ".join(dict.fromkeys(each.error for each in records))
        return Unavailable(f"every engine has failed: {reasons}", code="engine_failed")


class DispatchedSpeech:
    """The audio of one request, from whichever worker serves it: iterate it with `async for`, from one reader.

    It holds a slot of that worker and the request's permits in the registry until it is closed.
    Iterating raises ServiceError if the speech does not reach its end.
    engine_name, worker_id: of the worker that serves it.
    """

    def __init__(self, dispatcher: Dispatcher, job: SpeechJob, use: KeyUse) -> None:
        self._dispatcher = dispatcher
        self._registry = dispatcher.registry
        self._job = job
        self._use = use
        self._target = dispatcher.index
        self._source: LocalSpeech | RemoteSpeech | None = None
        self._held = AsyncExitStack()  # the open source
        self._reserved: set[int] = set()  # workers on which the registry counts the permits
        self._excluded: set[int] = set()  # workers that refused or died
        self._deadline = time.monotonic() + dispatcher.max_wait
        self._admitted = False
        self._may_restart = True
        self._has_audio = False
        self._delivered = DeliveredAudio()
        self._replay: Replay | None = None  # while another worker speaks again what was delivered
        self._deaths: list[int] = []  # how far each worker had spoken that died in mid-stream, in samples
        self._died_at = 0.0  # of the last of them, time.monotonic()

    @property
    def engine_name(self) -> str:
        return self._opened.engine_name

    @property
    def worker_id(self) -> str:
        return self._registry.assignments[self._target].worker_id

    def __aiter__(self) -> DispatchedSpeech:
        return self

    async def __anext__(self) -> AudioChunk:
        while (chunk := await self._next_chunk()) is None:
            pass
        self._has_audio = True
        self._delivered.add(chunk)
        self._use.samples = self._delivered.samples
        return chunk

    async def _next_chunk(self) -> AudioChunk | None:
        """The next chunk; None if it was delivered already, or another worker has taken over."""
        try:
            chunk = await (anext(self._opened) if self._has_audio else self._first_chunk())
            return chunk if self._replay is None else self._skip(self._replay, chunk)
        except ConnectionBroken as error:
            if self._has_audio:
                await self._resume(error)
            else:
                await self._restart()
            return None
        except StopAsyncIteration:
            if self._replay is not None and not self._replay.done():
                raise self._cut("the same request and seed gave less audio") from None
            raise

    async def _first_chunk(self) -> AudioChunk:
        """Wait for the first chunk. Raises ConnectionBroken if the worker hangs; another one can then start over."""
        reading = asyncio.ensure_future(_next(self._opened))
        try:
            while not (await asyncio.wait({reading}, timeout=RECHECK_SECONDS))[0]:
                self._check_alive(self._target)
            return reading.result()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _check_alive(self, target: int) -> None:
        """Raises ConnectionBroken if another worker hangs or is stopped: it would hold the request for ever."""
        if target != self._dispatcher.index and self._registry.is_silent(target):
            raise ConnectionBroken(f"it has not responded for {STALE_SECONDS:g} s")

    def _skip(self, replay: Replay, chunk: AudioChunk) -> AudioChunk | None:
        try:
            rest = replay.skip(chunk)
        except SpeechDiffers as error:
            raise self._cut(str(error)) from None
        if rest is not None:
            self._replay = None
            self._dispatcher.on_resume(True)
            _log.warning(
                "a stream goes on at worker %s after %.2f s, behind %.2f s of audio",
                self.worker_id,
                time.monotonic() - self._died_at,
                self._delivered.samples / SAMPLE_RATE,
            )
        return rest

    async def _resume(self, death: ConnectionBroken) -> None:
        """After a worker died in mid-stream: have another one speak the job from the start. Raises EngineBroke.

        Raises StopAsyncIteration if all of the speech was delivered before.
        """
        if self._delivered.complete:
            raise StopAsyncIteration
        dead, spoke, self._died_at = self._target, self._opened, time.monotonic()
        _log.warning("worker %s died in mid-stream: %s", self.worker_id, death)
        if not self._dispatcher.resumes:
            raise self._cut("RESUME is off")
        try:
            self._count_death(self._delivered.samples if self._replay is None else self._replay.samples_skipped)
            await self.aclose()
            self._excluded = {dead}
            self._job = replace(self._job, resumed=True)
            self._deadline = self._died_at + self._dispatcher.max_wait
            await self.start()
        except ServiceError as error:
            raise self._cut(str(error)) from None
        if self._opened.engine_name != spoke.engine_name:
            raise self._cut(f"worker {self.worker_id} has another engine, {self._opened.engine_name}")
        if self._opened.fingerprint != spoke.fingerprint:
            raise self._cut("its voice or the lexicon has changed since it began")
        self._replay = self._delivered.replay()

    def _count_death(self, spoken: int) -> None:
        """Count a worker that died after so many samples of this speech. Raises Unavailable if no other may try it."""
        if len(self._deaths) == MAX_RESUMES:
            raise Unavailable(f"it was resumed {MAX_RESUMES} times already")
        if any(abs(spoken - each) < SAME_PLACE for each in self._deaths):
            raise Unavailable("two workers died at the same place: the request itself may be what kills them")
        self._deaths.append(spoken)

    def _cut(self, reason: str) -> EngineBroke:
        """The error of a stream that is not resumed."""
        self._dispatcher.on_resume(False)
        _log.warning("a stream is cut, since its worker died and it is not resumed: %s", reason)
        return EngineBroke("the worker that generated this speech has died", code="worker_died")

    async def start(self) -> None:
        """Wait for a slot of any worker. Raises ServiceError if none gives one."""
        refusal: ServiceError | None = None
        while (target := self._reserve()) is not None:
            try:
                await self._open(target)
                return
            except Busy as error:
                refusal = error
                if time.monotonic() >= self._deadline:
                    break
            except Unavailable as error:
                refusal = refusal or error
            except ConnectionBroken as error:
                _log.warning("worker %s did not take a request: %s", self.worker_id, error)
                if self._admitted:
                    self._count_early_death()
            self._excluded.add(self._target)
        raise refusal or self._dispatcher.unavailable()

    async def aclose(self) -> None:
        """Give back the slot and the permits."""
        await self._held.aclose()
        for target in list(self._reserved):
            self._release(target)

    @property
    def _opened(self) -> LocalSpeech | RemoteSpeech:
        assert self._source is not None, "start() has not returned"
        return self._source

    async def _restart(self) -> None:
        """After a worker died before the first chunk: try the others, once. The request may be what killed it."""
        self._excluded.add(self._target)
        await self.aclose()
        self._count_early_death()
        await self.start()

    def _count_early_death(self) -> None:
        """Count a worker that died before its first chunk. Raises Unavailable if it is the second, or as above."""
        if self._has_audio:
            self._count_death(0)
            self._excluded.clear()  # those that died before may be ready again
            return
        if not self._may_restart:
            raise Unavailable("two workers died before this speech began: try again soon", code="worker_died")
        self._may_restart = False

    def _reserve(self, *, instead_of: int | None = None) -> int | None:
        """Reserve the permits on the least-loaded worker; None if no worker is left. instead_of: as of the registry."""
        target = self._registry.reserve(
            self._dispatcher.index, self._job.permits, self._excluded | self._reserved, instead_of=instead_of
        )
        if target is not None:
            self._reserved.add(target)
        return target

    def _release(self, target: int) -> None:
        if target in self._reserved:
            self._reserved.discard(target)
            self._registry.release(self._dispatcher.index, target, self._job.permits)

    async def _open(self, target: int) -> None:
        """Wait for a slot of a worker whose permits are reserved, or of another one that has a free slot first."""
        candidate: int | None = target
        while candidate is not None:
            self._target = candidate
            candidate = await self._wait_at(candidate)

    async def _wait_at(self, target: int) -> int | None:
        """Open the speech of one worker. Returns another worker, reserved, if that has a free slot first."""
        held = AsyncExitStack()
        held.callback(self._release, target)
        self._admitted = False
        source = self._dispatcher.open_source(
            target, self._job, self._deadline - time.monotonic(), on_admitted=self._set_admitted
        )
        entering = asyncio.create_task(held.enter_async_context(source))
        try:
            while not (await asyncio.wait({entering}, timeout=RECHECK_SECONDS))[0]:
                self._check_alive(target)
                if self._admitted:
                    continue
                if (other := self._reserve(instead_of=target)) is not None:
                    return other
                if time.monotonic() > self._deadline + _OVERTIME_SECONDS:
                    raise Busy("no worker had a free slot in time: try again soon")
            self._source = entering.result()
            self._held.push_async_exit(held.pop_all())
            return None
        finally:
            entering.cancel()
            await asyncio.gather(entering, return_exceptions=True)
            await held.aclose()  # empty if it was entered

    def _set_admitted(self) -> None:
        self._admitted = True


async def _next(source: LocalSpeech | RemoteSpeech) -> AudioChunk:
    return await anext(source)
