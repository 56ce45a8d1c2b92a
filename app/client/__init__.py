"""Python client of csm-serve: CsmClient, and AsyncCsmClient for asyncio and trio.

    with CsmClient() as client:                     # CSM_URL and API_KEY, from the environment or .env
        wav = client.speak("Hello.", voice_id="amy.wav")
        with client.stream("Once upon a time …", format="mp3") as speech:
            for data in speech:
                player.write(data)

Nothing here imports FastAPI, numpy or torch.
"""

from __future__ import annotations

from .async_client import AsyncCsmClient
from .errors import (
    ApiError,
    BadRequest,
    Busy,
    Conflict,
    CsmError,
    Forbidden,
    Misconfigured,
    NotFound,
    ServerFailed,
    StreamCut,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unprocessable,
    Unreachable,
    UnsupportedMedia,
)
from .options import AudioFormat, SpeechOptions
from .responses import Health, Voice
from .speech import AsyncSpeechStream, SpeechStream
from .sync_client import CsmClient

__all__ = [
    "ApiError",
    "AsyncCsmClient",
    "AsyncSpeechStream",
    "AudioFormat",
    "BadRequest",
    "Busy",
    "Conflict",
    "CsmClient",
    "CsmError",
    "Forbidden",
    "Health",
    "Misconfigured",
    "NotFound",
    "ServerFailed",
    "SpeechOptions",
    "SpeechStream",
    "StreamCut",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Unprocessable",
    "Unreachable",
    "UnsupportedMedia",
    "Voice",
]
