"""CsmClient: the service as plain calls. AsyncCsmClient is its twin; what they share is in `calls` and `server`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from . import endpoints
from .endpoints import Call, Progress, Recording
from .options import AudioFormat, SpeechOptions
from .responses import Health, Voice, error_of
from .speech import SpeechStream
from .transport import SILENCE_SECONDS, Retry, Server
from .wav import with_its_length

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Unpack

_T = TypeVar("_T")


class CsmClient:
    """A connection pool to one service. Close it, or use it in a `with`. Threads may share it.

    base_url, api_key: None takes CSM_URL (else HOST and PORT) and the first key of API_KEY, from the environment or
        from `.env` in the current directory.
    timeout: seconds for which the service may be silent.
    retries: how often what is answered 429 or 503 is tried again, each time after the wait that the service names.
    Every call raises CsmError: see `errors` for the kinds.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = SILENCE_SECONDS,
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
        format: AudioFormat = "wav",  # noqa: A002  # the name that the service gives it
        **options: Unpack[SpeechOptions],
    ) -> bytes:
        """The whole speech as a file of that format."""
        with self.stream(text, voice_id=voice_id, format=format, **options) as speech:
            audio = b"".join(speech)
        return with_its_length(audio) if format == "wav" else audio

    @contextmanager
    def stream(
        self,
        text: str,
        *,
        voice_id: str | None = None,
        format: AudioFormat = "wav",  # noqa: A002
        **options: Unpack[SpeechOptions],
    ) -> Iterator[SpeechStream]:
        """The speech as it is made. Leaving the `with` early ends it, and frees its slot."""
        asked = time.monotonic()
        call = endpoints.speak(text, voice_id, format, options)
        with (
            closing(self._open(call)) as response,
            closing(SpeechStream(response, call.read(response), self._server, asked)) as speech,
        ):
            yield speech

    def voices(self) -> list[str]:
        """The ids of all voices."""
        return self._ask(endpoints.voices())

    def voice(self, voice_id: str) -> Voice:
        return self._ask(endpoints.voice(voice_id))

    def add_voice(
        self,
        recording: Recording,
        *,
        transcript: str = "",
        voice_id: str | None = None,
        progress: Progress | None = None,
    ) -> str:
        """Upload a recording, a path or bytes, and get the voice's id: the name of the file, unless given.

        transcript: the words that are said in it. progress: called with (bytes sent, bytes in all).
        """
        return self._ask(endpoints.add_voice(recording, transcript, voice_id, progress))

    def replace_voice(
        self, voice_id: str, recording: Recording, *, transcript: str = "", progress: Progress | None = None
    ) -> None:
        """Let an uploaded voice be another recording, from the next request on."""
        self._ask(endpoints.replace_voice(voice_id, recording, transcript, progress))

    def delete_voice(self, voice_id: str) -> None:
        self._ask(endpoints.delete_voice(voice_id))

    def health(self) -> Health:
        """How it is; also one that fails or shuts down answers. Needs no key."""
        return self._ask(endpoints.health())

    def system_status(self) -> dict[str, Any]:
        """CPU, GPUs and workers, as in GET /system-status."""
        return self._ask(endpoints.system_status())

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, call: Call[_T]) -> _T:
        with closing(self._open(call)) as response:
            with self._server.errors():
                response.read()
            return call.read(response)

    def _open(self, call: Call[Any]) -> httpx.Response:
        """An answer that is no error, its body still to come."""
        for tried in count():
            with self._server.errors():
                response = self._http.send(call.request(self._http), stream=True)
                if call.succeeded(response):
                    return response
                with closing(response):
                    response.read()
            error = error_of(response)
            pause = self._retry.pause(error, tried)
            if pause is None:
                raise error
            time.sleep(pause)
        raise AssertionError("counting has no end")
