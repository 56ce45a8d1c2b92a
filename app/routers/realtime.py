"""Conversations (API.md section 9)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, WebSocket
from starlette.requests import HTTPConnection

from ..errors import Busy
from ..middleware.error_handlers import response_of
from ..realtime.service import RealtimeService
from ..realtime.session import RealtimeSession

router = APIRouter()


async def _get_service(connection: HTTPConnection) -> RealtimeService:
    service = connection.app.state.realtime
    assert isinstance(service, RealtimeService)
    return service


RealtimeDep = Annotated[RealtimeService, Depends(_get_service)]


@router.websocket("/v1/realtime")
async def realtime(websocket: WebSocket, service: RealtimeDep) -> None:
    """A conversation over OpenAI's Realtime protocol. The handshake is refused if the worker has too many."""
    try:
        with service.session():
            await RealtimeSession(websocket, service).run()
    except Busy as error:
        await websocket.send_denial_response(response_of(error, websocket.scope["path"]))
