"""A speech recogniser behind OpenAI's /audio/transcriptions: OpenAI, vLLM, speaches, whisper.cpp and others."""

from __future__ import annotations

import httpx

from ..audio.encoders.wav import wav_file
from ..audio.thread_pool import run_in_thread
from ..errors import Unavailable
from .transcriber import Samples

CONNECT_SECONDS = 5.0
MAX_CONNECTIONS = 512
DEFAULT_MODEL = "whisper-1"
_SHOWN = 300  # characters of a refusal that an error repeats


class HttpTranscriber:
    """seconds: how long a transcription may take. transport: in place of the network, for tests."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        model: str | None,
        seconds: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._model = model or DEFAULT_MODEL
        self.name = self._model
        self._url = f"{base_url.rstrip('/')}/audio/transcriptions"
        self._seconds = seconds
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds)),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=32),
            transport=transport,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def transcribe(self, samples: Samples, language: str | None = None, prompt: str | None = None) -> str:
        recording = await run_in_thread(lambda: wav_file(samples))
        form = {"model": self._model, "response_format": "json", "language": language, "prompt": prompt}
        try:
            response = await self._client.post(
                self._url,
                data={name: value for name, value in form.items() if value},
                files={"file": ("speech.wav", recording, "audio/wav")},
            )
        except httpx.TimeoutException as error:
            raise Unavailable(
                f"the recogniser at STT_BASE_URL sent nothing for {self._seconds:g} seconds: try again, or raise "
                "STT_TIMEOUT_SECONDS",
                code="stt_timeout",
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _failed(f"cannot be reached ({type(error).__name__}: {error})") from error
        if response.status_code >= 400:
            raise _failed(f"answered {response.status_code}: {response.text[:_SHOWN]}. Check STT_MODEL and STT_API_KEY")
        try:
            return str(response.json()["text"]).strip()
        except (ValueError, LookupError, TypeError):
            raise _failed(f"sent no text: {response.text[:_SHOWN]!r}") from None


def _failed(reason: str) -> Unavailable:
    return Unavailable(f"the recogniser at STT_BASE_URL {reason}", code="stt_failed")
