"""What the routes of one worker share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from .observability.event_loop_lag import Strain
from .observability.metrics import Metrics
from .observability.system_status import Machine
from .pool.admission import Admission
from .pool.assignment import Place
from .pool.engine_host import EngineHost
from .pool.pool import Pool
from .settings import Settings
from .voices.store import VoiceStore

UPLOADS_AT_ONCE, UPLOADS_WAITING, UPLOAD_WAIT_SECONDS = 8, 32, 30.0  # of recordings that are being sent


@dataclass(frozen=True)
class Service:
    settings: Settings
    place: Place
    voices: VoiceStore
    host: EngineHost
    pool: Pool
    metrics: Metrics
    machine: Machine
    strain: Strain
    uploads: Admission = field(default_factory=lambda: Admission(UPLOADS_AT_ONCE, UPLOADS_WAITING, UPLOAD_WAIT_SECONDS))


async def _service_of(connection: HTTPConnection) -> Service:  # async: else each request would take a thread
    service = connection.app.state.service
    assert isinstance(service, Service)
    return service


TheService = Annotated[Service, Depends(_service_of)]
