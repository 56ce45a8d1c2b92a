"""Conversations (API.md section 9)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, WebSocket
from starlette.requests import HTTPConnection

from ..errors import Busy
from ..middleware.error_handlers import response_of
from ..realtime.service import RealtimeService
from ..realtime.session import RealtimeSession
from ..realtime.telephone_session import TelephoneSession

router = APIRouter()


async def _get_service(connection: HTTPConnection) -> RealtimeService:
    service = connection.app.state.realtime
    assert isinstance(service, RealtimeService)
    return service


RealtimeDep = Annotated[RealtimeService, Depends(_get_service)]


@router.websocket("/v1/realtime")
async def realtime(websocket: WebSocket, service: RealtimeDep) -> None:
    """A conversation over OpenAI's Realtime protocol."""
    await _run(RealtimeSession(websocket, service), websocket, service)


@router.websocket("/twilio")
async def twilio(websocket: WebSocket, service: RealtimeDep) -> None:
    """A telephone call over Twilio's Media Streams: a conversation as at /v1/realtime."""
    await _run(TelephoneSession(websocket, service), websocket, service)


async def _run(session: RealtimeSession | TelephoneSession, websocket: WebSocket, service: RealtimeService) -> None:
    """Refuses the handshake if the worker has too many conversations."""
    try:
        with service.session():
            await session.run()
    except Busy as error:
        await websocket.send_denial_response(response_of(error, websocket.scope["path"]))
