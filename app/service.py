"""What the routes of one worker share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from .admission import Admission
from .engine_host import EngineHost
from .pool.pool import Pool
from .settings import Settings
from .telemetry.machine import Machine
from .telemetry.metrics import Metrics
from .telemetry.strain import Strain
from .voices.store import VoiceStore
from .worker import Place

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
