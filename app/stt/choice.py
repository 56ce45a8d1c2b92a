"""Chooses the speech recogniser: the settings' server or Moonshine, else the best package that is installed."""

from __future__ import annotations

from pathlib import Path

from ..errors import Unavailable
from ..settings import Settings
from .http_transcriber import HttpTranscriber
from .local_transcriber import FasterWhisper, LocalTranscriber, PocketSphinx, is_installed
from .moonshine import Moonshine, is_moonshine
from .transcriber import Samples, Transcriber

DEFAULT_WHISPER = "small.en"


class NoTranscriber:
    """Tells what is missing."""

    name = "none"

    async def transcribe(self, samples: Samples, language: str | None = None, prompt: str | None = None) -> str:
        raise Unavailable(
            "no speech recogniser is configured: set STT_BASE_URL, or STT_MODEL=moonshine/base, or install one with "
            "`pip install csm-serve[stt]`",
            code="stt_not_configured",
        )

    async def close(self) -> None:
        pass


def choose_transcriber(settings: Settings) -> Transcriber:
    """STT_BASE_URL, else Moonshine if STT_MODEL names it, else faster-whisper, else pocketsphinx, else none."""
    seconds = settings.stt_timeout_seconds
    if settings.stt_base_url is not None:
        key = settings.stt_api_key
        return HttpTranscriber(
            settings.stt_base_url, None if key is None else key.get_secret_value(), settings.stt_model, seconds
        )
    model = settings.stt_model
    if model and is_moonshine(model):
        name = f"moonshine {_shown(model).removeprefix('moonshine/')}"
        return LocalTranscriber(name, lambda: Moonshine(model), seconds)
    if is_installed("faster_whisper"):
        whisper = model or DEFAULT_WHISPER
        return LocalTranscriber(f"faster-whisper {_shown(whisper)}", lambda: FasterWhisper(whisper), seconds)
    if is_installed("pocketsphinx"):
        return LocalTranscriber("pocketsphinx", PocketSphinx, seconds)
    return NoTranscriber()


def _shown(model: str) -> str:
    """Its name; of a folder, the last part."""
    return Path(model).name if Path(model).is_dir() else model
