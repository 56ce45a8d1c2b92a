"""Chooses the speech recogniser: the settings' server, else the best package that is installed."""

from __future__ import annotations

from ..errors import Unavailable
from ..settings import Settings
from .http_transcriber import HttpTranscriber
from .local_transcriber import FasterWhisper, LocalTranscriber, PocketSphinx, is_installed
from .transcriber import Samples, Transcriber

DEFAULT_WHISPER = "small.en"


class NoTranscriber:
    """Tells what is missing."""

    name = "none"

    async def transcribe(self, samples: Samples, language: str | None = None, prompt: str | None = None) -> str:
        raise Unavailable(
            "no speech recogniser is configured: set STT_BASE_URL, or install one with `pip install csm-serve[stt]`",
            code="stt_not_configured",
        )

    async def close(self) -> None:
        pass


def choose_transcriber(settings: Settings) -> Transcriber:
    """STT_BASE_URL, else faster-whisper, else pocketsphinx, else none."""
    seconds = settings.stt_timeout_seconds
    if settings.stt_base_url is not None:
        key = settings.stt_api_key
        return HttpTranscriber(
            settings.stt_base_url, None if key is None else key.get_secret_value(), settings.stt_model, seconds
        )
    if is_installed("faster_whisper"):
        model = settings.stt_model or DEFAULT_WHISPER
        return LocalTranscriber(f"faster-whisper {model}", lambda: FasterWhisper(model), seconds)
    if is_installed("pocketsphinx"):
        return LocalTranscriber("pocketsphinx", PocketSphinx, seconds)
    return NoTranscriber()
