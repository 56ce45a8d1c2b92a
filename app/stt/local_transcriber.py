"""Speech recognition in this process, by whichever of the optional packages is installed."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from engine import SAMPLE_RATE, import_onnxruntime

from ..audio.encoders.pcm import to_int16
from ..audio.rate_converter import resample
from ..audio.thread_pool import run_in_executor
from ..errors import Unavailable
from .transcriber import Samples

_log = logging.getLogger(__name__)

RATE = 16_000  # of all of these recognisers
_WHISPER_FILES = ["config.json", "preprocessor_config.json", "model.bin", "tokenizer.json", "vocabulary.*"]
THREADS = 2  # recordings that are recognised at once; more wait


class Recogniser(Protocol):
    """One package's recogniser, in one thread at a time."""

    def recognise(self, samples: Samples, language: str | None, prompt: str | None) -> str:
        """The words of float32 (samples,) at 16 kHz."""
        ...


class LocalTranscriber:
    """Recognises in threads of its own. Each thread has its own recogniser, loaded with its first recording.

    load: builds a recogniser; it may download weights. seconds: how long a transcription may take, the load included.
    """

    def __init__(self, name: str, load: Callable[[], Recogniser], seconds: float) -> None:
        self.name = name
        self._load, self._seconds = load, seconds
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="recognise")
        self._own = threading.local()

    async def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def transcribe(self, samples: Samples, language: str | None = None, prompt: str | None = None) -> str:
        try:
            async with asyncio.timeout(self._seconds):
                return await run_in_executor(self._executor, lambda: self._recognise(samples, language, prompt))
        except TimeoutError:
            raise Unavailable(
                f"{self.name} took longer than {self._seconds:g} seconds: raise STT_TIMEOUT_SECONDS, or set "
                "STT_BASE_URL to a faster recogniser",
                code="stt_timeout",
            ) from None

    def _recognise(self, samples: Samples, language: str | None, prompt: str | None) -> str:
        try:
            recogniser = getattr(self._own, "recogniser", None)
            if recogniser is None:
                recogniser = self._own.recogniser = self._load()
            return recogniser.recognise(resample(samples, SAMPLE_RATE, RATE), language, prompt).strip()
        except Exception as error:
            _log.exception("%s failed", self.name)
            raise Unavailable(f"{self.name} failed: {type(error).__name__}: {error}", code="stt_failed") from error


class FasterWhisper:
    """faster-whisper; its weights are downloaded at its first use, with a progress bar."""

    def __init__(self, model: str) -> None:
        import_onnxruntime()  # faster-whisper imports it too
        package = importlib.import_module("faster_whisper")  # of the extra `stt`
        self._model: Any = package.WhisperModel(_fetch_whisper(model), device="auto", compute_type="default")

    def recognise(self, samples: Samples, language: str | None, prompt: str | None) -> str:
        segments, _ = self._model.transcribe(
            samples, language=language, initial_prompt=prompt, beam_size=1, condition_on_previous_text=False
        )
        return "".join(segment.text for segment in segments)


def _fetch_whisper(model: str) -> str:
    """Where faster-whisper finds a model, downloaded if it is not there: the package itself shows no progress."""
    import huggingface_hub

    names = getattr(importlib.import_module("faster_whisper.utils"), "_MODELS", {})
    repository = names.get(model, model)
    if "/" not in repository or Path(repository).is_dir():
        return model
    with fetching(repository):
        return str(huggingface_hub.snapshot_download(repository, allow_patterns=_WHISPER_FILES))


@contextmanager
def fetching(repository: str) -> Iterator[None]:
    """Around a download from the Hub. Raises OSError that says what to do."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"  # some have several lines
        raise OSError(
            f"{repository} cannot be downloaded ({reason}): check STT_MODEL and the connection to the Hub, or set "
            "STT_MODEL to a folder with its files"
        ) from error


class PocketSphinx:
    """pocketsphinx: English only, a small vocabulary by today's measure, but no download."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder: Any = Decoder(samprate=RATE, loglevel="FATAL")

    def recognise(self, samples: Samples, language: str | None, prompt: str | None) -> str:
        if not samples.size:
            return ""
        self._decoder.start_utt()
        self._decoder.process_raw(to_int16(samples).tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return found.hypstr if found is not None else ""


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
