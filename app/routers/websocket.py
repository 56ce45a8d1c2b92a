"""Speech over WebSockets: API.md section 4."""

from __future__ import annotations

import random

import anyio.to_thread
from fastapi import APIRouter, WebSocket

from ..errors import ServiceError, UnknownVoice
from ..middleware.error_handlers import answer
from ..state import Service, TheService
from ..voices.speakers import speaker_number
from ..websocket.json_protocol import JsonDialect
from ..websocket.session import Connection
from ..websocket.stream_protocol import StreamDialect
from ..websocket.voice_protocol import VoiceDialect

router = APIRouter()


@router.websocket("/ws")
async def ws(websocket: WebSocket, service: TheService) -> None:
    """Texts with any parameter of /tts/generate; JSON or binary audio."""
    await Connection(websocket, service, JsonDialect(service.settings)).run()


@router.websocket("/stream")
async def stream(websocket: WebSocket, service: TheService) -> None:
    """Texts of one conversation, each answered whole."""
    dialect = StreamDialect(service.settings, seed=random.getrandbits(62))
    await Connection(websocket, service, dialect).run()


@router.websocket("/api/{voice_name}")
async def api(websocket: WebSocket, voice_name: str, service: TheService) -> None:
    """Texts in one voice; binary audio. A voice that is not there is refused before the connection stands."""
    try:
        await anyio.to_thread.run_sync(_check_voice, service, voice_name)
    except ServiceError as error:
        await websocket.send_denial_response(answer(error, websocket.scope["path"]))
        return
    await Connection(websocket, service, VoiceDialect(service.settings, voice_name)).run()


def _check_voice(service: Service, voice_name: str) -> None:
    try:
        service.voices.get(voice_name)
    except UnknownVoice:
        if speaker_number(voice_name) is None:
            raise
