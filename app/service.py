"""What the routes of one worker share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from .engine_host import EngineHost
from .settings import Settings
from .voice_store import VoiceStore
from .worker import Place


@dataclass(frozen=True)
class Service:
    settings: Settings
    place: Place
    voices: VoiceStore
    host: EngineHost


def _service_of(connection: HTTPConnection) -> Service:
    service = connection.app.state.service
    assert isinstance(service, Service)
    return service


TheService = Annotated[Service, Depends(_service_of)]
