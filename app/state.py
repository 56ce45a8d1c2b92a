"""Application state shared by the routes of one worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from .access.key_ring import KeyRing
from .observability.event_loop_lag import EventLoopMonitor
from .observability.metrics import Metrics
from .observability.system_status import SystemMonitor
from .pool.admission import Admission
from .pool.assignment import WorkerAssignment
from .pool.engine_host import EngineHost
from .pool.http_host import HttpHost
from .pool.pool import Pool
from .pool.references import ReferenceResolver
from .settings import Settings
from .voices.store import VoiceStore

MAX_UPLOADS, MAX_QUEUED_UPLOADS, UPLOAD_WAIT_SECONDS = 8, 32, 30.0  # concurrent uploads


@dataclass(frozen=True)
class AppState:
    settings: Settings
    assignment: WorkerAssignment
    voices: VoiceStore
    references: ReferenceResolver
    host: EngineHost | HttpHost
    pool: Pool
    metrics: Metrics
    system_monitor: SystemMonitor
    event_loop_monitor: EventLoopMonitor
    keys: KeyRing
    uploads: Admission = field(default_factory=lambda: Admission(MAX_UPLOADS, MAX_QUEUED_UPLOADS, UPLOAD_WAIT_SECONDS))


async def _get_state(connection: HTTPConnection) -> AppState:  # async, since FastAPI runs sync dependencies in a thread
    state = connection.app.state.service
    assert isinstance(state, AppState)
    return state


StateDep = Annotated[AppState, Depends(_get_state)]
