"""Python client of csm-serve: CsmClient, and AsyncCsmClient for asyncio and trio.

    with CsmClient() as client:                     # CSM_URL and API_KEY, from the environment or .env
        wav = client.speak("Hello.", voice_id="amy.wav")
        with client.stream("Once upon a time …", format="mp3") as speech:
            for data in speech:
                player.write(data)

`client.converse()` is a voice conversation. Nothing here imports FastAPI, numpy or torch.
"""

from __future__ import annotations

from .async_client import AsyncCsmClient
from .conversation import AsyncConversation, Conversation
from .conversation_events import (
    AudioCommitted,
    AudioDelta,
    ConversationEvent,
    ErrorReceived,
    FunctionCall,
    ItemAdded,
    ItemTruncated,
    ResponseCreated,
    ResponseDone,
    SessionChanged,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    TranscriptDelta,
    TranscriptionFailed,
    UserTranscript,
)
from .conversation_requests import ConversationOptions
from .errors import (
    ApiError,
    BadRequest,
    Busy,
    Conflict,
    ConversationError,
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
from .options import AudioFormat, DialogueTurn, Reference, SpeechOptions, reference
from .responses import Health, Voice
from .speech import AsyncSpeechStream, SpeechStream
from .speech_events import Mark, WordTiming
from .sync_client import CsmClient

__all__ = [
    "ApiError",
    "AsyncConversation",
    "AsyncCsmClient",
    "AsyncSpeechStream",
    "AudioCommitted",
    "AudioDelta",
    "AudioFormat",
    "BadRequest",
    "Busy",
    "Conflict",
    "Conversation",
    "ConversationError",
    "ConversationEvent",
    "ConversationOptions",
    "CsmClient",
    "CsmError",
    "DialogueTurn",
    "ErrorReceived",
    "Forbidden",
    "FunctionCall",
    "Health",
    "ItemAdded",
    "ItemTruncated",
    "Mark",
    "Misconfigured",
    "NotFound",
    "Reference",
    "ResponseCreated",
    "ResponseDone",
    "ServerFailed",
    "SessionChanged",
    "SpeechOptions",
    "SpeechStarted",
    "SpeechStopped",
    "SpeechStream",
    "StreamCut",
    "TextDelta",
    "TooLarge",
    "TranscriptDelta",
    "TranscriptionFailed",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Unprocessable",
    "Unreachable",
    "UnsupportedMedia",
    "UserTranscript",
    "Voice",
    "WordTiming",
    "reference",
]
