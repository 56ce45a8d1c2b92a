"""CsmClient, the blocking client. What it shares with AsyncCsmClient is in `endpoints` and `transport`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import httpx

from . import endpoints
from .conversation import Conversation
from .conversation_requests import ConversationOptions
from .endpoints import Call, Progress, Recording, Turn, Warn
from .errors import Busy, Unavailable
from .options import AudioFormat, SpeechOptions
from .responses import Health, SpeechHead, Voice, error_of
from .speech import SpeechStream
from .transport import READ_TIMEOUT_SECONDS, Retry, Server
from .wav import fill_in_sizes

if TYPE_CHECKING:
    from typing import Self


_T = TypeVar("_T")


class CsmClient:
    """Connection pool to one service. Close it, or use it in a `with`. Thread-safe.

    base_url, api_key: None uses CSM_URL (else HOST and PORT) and the first key of API_KEY, from the environment or
        from `.env` in the current directory.
    timeout: read timeout in seconds.
    retries: maximum retries after a 429 or 503, each after the response's Retry-After.
    Every method raises CsmError; `errors` lists its subclasses.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = READ_TIMEOUT_SECONDS,
        retries: int = 0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._server = Server.of(base_url, api_key)
        self._retry = Retry(retries)
        self._http = httpx.Client(transport=transport, **self._server.http_options(timeout))

    def speak(
        self,
        text: str,
        *,
        voice_id: str | None = None,
        format: AudioFormat = "wav",  # noqa: A002  # the service's parameter name
        **options: Unpack[SpeechOptions],
    ) -> bytes:
        """Generate speech and return it as a complete file of that format."""
        with self.stream(text, voice_id=voice_id, format=format, **options) as speech:
            audio = b"".join(speech)
        return fill_in_sizes(audio) if format.startswith("wav") else audio

    @contextmanager
    def stream(
        self,
        text: str,
        *,
        voice_id: str | None = None,
        format: AudioFormat = "wav",  # noqa: A002
        timestamps: bool = False,
        **options: Unpack[SpeechOptions],
    ) -> Iterator[SpeechStream]:
        """Stream speech while it is generated. Leaving the `with` early ends it and frees its slot.

        timestamps: the stream's `marks` tell when each word is said.
        """
        with self._stream(endpoints.speak(text, voice_id, format, options, timestamps=timestamps)) as speech:
            yield speech

    def dialogue(
        self,
        turns: Iterable[Turn],
        *,
        gap_ms: int | None = None,
        format: AudioFormat = "wav",  # noqa: A002
        **options: Unpack[SpeechOptions],
    ) -> bytes:
        """Generate a dialogue and return it as a complete file of that format.

        turns: who says what, each `("amy.wav", "Hello.")`, or a DialogueTurn.
        gap_ms: silence between two turns, 200 by default; a negative gap mixes the end of one with the next.
        """
        with self.stream_dialogue(turns, gap_ms=gap_ms, format=format, **options) as speech:
            audio = b"".join(speech)
        return fill_in_sizes(audio) if format.startswith("wav") else audio

    @contextmanager
    def stream_dialogue(
        self,
        turns: Iterable[Turn],
        *,
        gap_ms: int | None = None,
        format: AudioFormat = "wav",  # noqa: A002
        timestamps: bool = False,
        **options: Unpack[SpeechOptions],
    ) -> Iterator[SpeechStream]:
        """Stream a dialogue while it is generated: `dialogue` as `stream`."""
        call = endpoints.dialogue(turns, gap_ms, format, options, timestamps=timestamps)
        with self._stream(call) as speech:
            yield speech

    @contextmanager
    def _stream(self, call: Call[SpeechHead]) -> Iterator[SpeechStream]:
        started = time.monotonic()
        with (
            closing(self._open(call)) as response,
            closing(SpeechStream(response, call.read(response), self._server, started)) as speech,
        ):
            yield speech

    @contextmanager
    def converse(self, **options: Unpack[ConversationOptions]) -> Iterator[Conversation]:
        """Begin a voice conversation. Leaving the `with` ends it. Raises ConversationError for a rejected setting."""
        for attempt in count():
            try:
                conversation = Conversation(self._server)
            except (Busy, Unavailable) as error:
                delay = self._retry.delay(error, attempt)
                if delay is None:
                    raise
                time.sleep(delay)
            else:
                break
        with conversation:
            conversation.begin(options)
            yield conversation

    def voices(self) -> list[str]:
        """Ids of all voices."""
        return self._request(endpoints.voices())

    def voice(self, voice_id: str) -> Voice:
        return self._request(endpoints.voice(voice_id))

    def add_voice(
        self,
        recording: Recording,
        *,
        transcript: str = "",
        voice_id: str | None = None,
        progress: Progress | None = None,
        warn: Warn | None = None,
    ) -> str:
        """Upload a recording, given as a path or bytes. Returns the voice's id, by default the file's name.

        transcript: the spoken words. progress: called with (bytes sent, total bytes). warn: called with
        each quality problem of the recording, a sentence.
        """
        stored = self._request(endpoints.add_voice(recording, transcript, voice_id, progress))
        return endpoints.report(stored, warn)

    def replace_voice(
        self,
        voice_id: str,
        recording: Recording,
        *,
        transcript: str = "",
        progress: Progress | None = None,
        warn: Warn | None = None,
    ) -> None:
        """Replace an uploaded voice's recording, from the next request on."""
        endpoints.report(self._request(endpoints.replace_voice(voice_id, recording, transcript, progress)), warn)

    def delete_voice(self, voice_id: str) -> None:
        self._request(endpoints.delete_voice(voice_id))

    def health(self) -> Health:
        """Health of the service, also while it is failed or shutting down. Needs no key."""
        return self._request(endpoints.health())

    def system_status(self) -> dict[str, Any]:
        """CPU, GPUs and workers, as in GET /system-status."""
        return self._request(endpoints.system_status())

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _request(self, call: Call[_T]) -> _T:
        with closing(self._open(call)) as response:
            with self._server.translate_errors():
                response.read()
            return call.read(response)

    def _open(self, call: Call[Any]) -> httpx.Response:
        """Send a request, with retries. Returns a successful response whose body is not read yet."""
        for attempt in count():
            with self._server.translate_errors():
                response = self._http.send(call.request(self._http), stream=True)
                if call.succeeded(response):
                    return response
                with closing(response):
                    response.read()
            error = error_of(response)
            delay = self._retry.delay(error, attempt)
            if delay is None:
                raise error
            time.sleep(delay)
        raise AssertionError("unreachable")
