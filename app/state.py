"""What the routes of one worker share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from .observability.event_loop_lag import EventLoopMonitor
from .observability.metrics import Metrics
from .observability.system_status import SystemMonitor
from .pool.admission import Admission
from .pool.assignment import WorkerAssignment
from .pool.engine_host import EngineHost
from .pool.pool import Pool
from .settings import Settings
from .voices.store import VoiceStore

UPLOADS_AT_ONCE, UPLOADS_WAITING, UPLOAD_WAIT_SECONDS = 8, 32, 30.0  # of recordings that are being sent


@dataclass(frozen=True)
class AppState:
    settings: Settings
    place: WorkerAssignment
    voices: VoiceStore
    host: EngineHost
    pool: Pool
    metrics: Metrics
    system_monitor: SystemMonitor
    event_loop_monitor: EventLoopMonitor
    uploads: Admission = field(default_factory=lambda: Admission(UPLOADS_AT_ONCE, UPLOADS_WAITING, UPLOAD_WAIT_SECONDS))


async def _service_of(connection: HTTPConnection) -> AppState:  # async: else each request would take a thread
    service = connection.app.state.service
    assert isinstance(service, AppState)
    return service


StateDep = Annotated[AppState, Depends(_service_of)]
