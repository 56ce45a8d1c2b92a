"""One worker of the pool: start, heartbeats, drain and close."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import anyio.to_thread

from engine import Codes, EngineError, VoicePrompt

from ..errors import from_engine
from .dispatcher import Dispatcher
from .engine_host import EngineHost
from .framing import ConnectionBroken
from .http_host import HttpHost
from .remote import encode_remotely, prepare_remote_voice
from .speech_server import SpeechServer, socket_path
from .worker_registry import State, WorkerRegistry, restart_delay

_log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 0.5


class Pool:
    """This worker, and its access to the others.

    index: of this worker in the registry.
    host: its engine, or what there is in a worker without one.
    sockets: a private folder with a socket for each worker; None if there is only one worker.
    max_wait: seconds that a request may wait for a slot.
    dispatcher: sends this worker's requests to any worker.
    """

    def __init__(
        self, registry: WorkerRegistry, index: int, host: EngineHost | HttpHost, sockets: Path | None, max_wait: float
    ) -> None:
        self.registry = registry
        self.index = index
        self.host = host
        self._engine = host if isinstance(host, EngineHost) else None
        self._sockets = sockets
        self._server: SpeechServer | None = None
        if self._engine is not None and sockets is not None:
            self._server = SpeechServer(self._engine, socket_path(sockets, index))
        self.dispatcher = Dispatcher(registry, index, self._engine, sockets, max_wait)
        self._heartbeats: asyncio.Task[None] | None = None
        self._publishing = threading.Lock()  # else what one thread has read could replace what another wrote since

    async def start(self, on_ready: Callable[[], None]) -> None:
        """Listen for the other workers, begin to load the engine, and publish heartbeats.

        on_ready: called from the loading thread.
        """
        if self._server is not None:
            await self._server.start()
        record = self.registry.record(self.index)
        self.host.on_change = self.host.components.on_change = self.publish
        self.host.start(on_ready, restart_delay(record))
        self.publish()
        self._heartbeats = asyncio.create_task(self._publish_heartbeats())

    async def prepare_voice(self, voice_id: str) -> None:
        """Have a voice encoded ahead of its first request: by this worker's engine, or by all others without one.

        Returns at once. Workers that were not asked encode it at their first request.
        """
        if self._engine is not None:
            self._engine.prepare_voice(voice_id)
            return
        assert self._sockets is not None, "a worker without an engine has others"
        for index, record in enumerate(self.registry.records()):
            if record.has_engine and record.state == "ready":
                try:
                    await prepare_remote_voice(socket_path(self._sockets, index), voice_id)
                except ConnectionBroken as error:
                    _log.warning("worker %s was not asked to encode voice %s: %s", record.worker_id, voice_id, error)

    async def encode(self, recording: VoicePrompt) -> Codes | None:
        """The codes of a recording, mono at 24 kHz, to be a segment of a history; None if the engines have no codec.

        Raises ServiceError.
        """
        if self._engine is not None:
            try:
                return await anyio.to_thread.run_sync(self._engine.encode, recording, abandon_on_cancel=True)
            except EngineError as error:
                raise from_engine(error) from error
        assert self._sockets is not None, "a worker without an engine has others"
        for index, record in enumerate(self.registry.records()):
            if record.has_engine and record.state == "ready":
                try:
                    return await encode_remotely(socket_path(self._sockets, index), recording)
                except ConnectionBroken as error:
                    _log.warning("worker %s did not encode a recording: %s", record.worker_id, error)
        raise self.dispatcher.unavailable()

    async def close(self) -> None:
        """Cut the streams of other workers and close the engine."""
        self.drain()
        if self._heartbeats is not None:
            self._heartbeats.cancel()
            await asyncio.gather(self._heartbeats, return_exceptions=True)
        if self._server is not None:
            await self._server.close()
        await self.dispatcher.limiter.close()
        await asyncio.to_thread(self.host.close)

    def drain(self) -> None:
        """Admit no new request on this worker and refuse those that wait for a slot; running streams go on."""
        if not self.draining:
            self.dispatcher.draining = True
            self.publish()
            self.host.stop_admitting()

    @property
    def draining(self) -> bool:
        return self.dispatcher.draining

    @property
    def busy(self) -> bool:
        """This worker dispatches requests, or serves those of other workers."""
        return self.dispatcher.active > 0 or (self._server is not None and self._server.connections > 0)

    @property
    def others_ready(self) -> bool:
        """Other workers are ready to accept connections."""
        return any(
            each.state == "ready" and each.serves_http
            for index, each in enumerate(self.registry.records())
            if index != self.index
        )

    async def _publish_heartbeats(self) -> None:
        while True:
            self.publish()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def publish(self) -> None:
        """Write this worker's state and load to the registry. Thread-safe."""
        with self._publishing:
            self._publish()

    def _publish(self) -> None:
        status = self.host.status()
        state: State = "draining" if self.draining or status.state == "closed" else status.state
        capacity, active, queued = self.host.load()
        self.registry.update(
            self.index,
            state,
            progress=status.progress,
            doing=status.doing,
            error=status.error or "",
            engine=status.engine or "",
            model=status.model or "",
            capacity=capacity,
            active=active,
            queued=queued,
            components=self.host.components.statuses(),
        )

    def report_failure(self, reason: str) -> None:
        """Write to the registry why this process is about to exit."""
        self.registry.update(self.index, "failed", error=reason)
