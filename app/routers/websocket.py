"""WebSocket routes (API.md section 4)."""

from __future__ import annotations

import random

import anyio.to_thread
from fastapi import APIRouter, WebSocket

from ..errors import ServiceError, UnknownVoice
from ..middleware.error_handlers import response_of
from ..state import AppState, StateDep
from ..voices.speakers import speaker_number
from ..websocket.json_protocol import JsonProtocol
from ..websocket.session import WebSocketSession
from ..websocket.stream_protocol import StreamProtocol
from ..websocket.voice_protocol import VoiceProtocol

router = APIRouter()


@router.websocket("/ws")
async def ws(websocket: WebSocket, state: StateDep) -> None:
    """Texts with any parameter of /tts/generate; JSON or binary audio."""
    await WebSocketSession(websocket, state, JsonProtocol(state.settings)).run()


@router.websocket("/stream")
async def stream(websocket: WebSocket, state: StateDep) -> None:
    """Texts of one conversation; each is answered with one wav file."""
    protocol = StreamProtocol(state.settings, seed=random.getrandbits(62))
    await WebSocketSession(websocket, state, protocol).run()


@router.websocket("/api/{voice_name}")
async def api(websocket: WebSocket, voice_name: str, state: StateDep) -> None:
    """Texts in one voice; binary audio. The handshake is refused if the voice is unknown."""
    try:
        await anyio.to_thread.run_sync(check_voice, state, voice_name)
    except ServiceError as error:
        await websocket.send_denial_response(response_of(error, websocket.scope["path"]))
        return
    await WebSocketSession(websocket, state, VoiceProtocol(state.settings, voice_name)).run()


def check_voice(state: AppState, voice_name: str) -> None:
    """Raises what the store does for a voice that cannot be spoken. Blocks: call it in a thread."""
    try:
        state.voices.get(voice_name)
    except UnknownVoice:
        if speaker_number(voice_name) is None:
            raise
