"""Voices of the model's built-in speakers, `speaker_0` and up.

Without a voice prompt CSM sounds different on every request. So each speaker is generated once with a fixed seed, and
that audio becomes its voice prompt, stored beside the uploads and shared by all workers and later starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import threading
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine import FRAME_MILLISECONDS, SAMPLE_RATE, Engine, EngineClosed, SpeechRequest, VoicePrompt

from ..observability.components import Report, report_nothing

_log = logging.getLogger(__name__)

SENTENCE = "The morning was quiet, and a light wind moved over the water while we talked."
_SPEAKER_ID = re.compile(r"speaker_(\d{1,3})", re.ASCII)
_SEED = 20_250_313
_MAX_SECONDS = 6.0

Pcm = npt.NDArray[np.int16]  # (samples,) at 24 kHz, as in a wav file, so that every worker has the same samples


def speaker_number(voice_id: str) -> int | None:
    """N of `speaker_N`; None for any other voice id."""
    found = _SPEAKER_ID.fullmatch(voice_id)
    return int(found[1]) if found else None


class SpeakerVoices:
    """Voice prompts of built-in speakers, generated on first use. Thread-safe; methods may block.

    folder: where recordings are stored; if it is not writable they are kept in memory only.
    fingerprint: of the model; each model has its own recordings.
    report: called with the result of every generation.
    """

    def __init__(self, engine: Engine, folder: Path, fingerprint: str, report: Report = report_nothing) -> None:
        self._engine = engine
        self._report = report
        self._folder = folder
        self._cache_key = hashlib.sha256(f"{fingerprint}\0{SENTENCE}\0{_SEED}".encode()).hexdigest()[:16]
        self._prompts: dict[int, VoicePrompt] = {}
        self._lock = threading.Lock()  # one generation at a time: each takes a slot for seconds

    def get(self, speaker: int) -> VoicePrompt:
        """Voice prompt of a speaker. Raises EngineError if it has to be generated and that fails."""
        with self._lock:
            if speaker not in self._prompts:
                try:
                    self._prompts[speaker] = self._load_or_generate(speaker)
                except EngineClosed:
                    raise
                except Exception as error:
                    self._report(f"speaker_{speaker} cannot be generated: {error or type(error).__name__}", "")
                    raise
                self._report(None, "")
            return self._prompts[speaker]

    def _load_or_generate(self, speaker: int) -> VoicePrompt:
        path = self._folder / f"{self._cache_key}-speaker_{speaker}.wav"
        samples = _read(path)
        if samples is None:
            _log.info("generating the voice of speaker_%d", speaker)
            samples = self._generate(speaker)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # an unusable file
            try:
                samples = _write_once(path, samples)
            except OSError as error:
                _log.warning("speaker_%d is kept in memory only: %s cannot be written (%s)", speaker, path, error)
        prompt = VoicePrompt((samples / 32768).astype(np.float32), SENTENCE, SAMPLE_RATE, speaker)
        self._engine.prepare_voice(prompt, speaker)
        return prompt

    def _generate(self, speaker: int) -> Pcm:
        seconds = min(_MAX_SECONDS, self._engine.max_voice_seconds or _MAX_SECONDS)
        frames = max(1, int(seconds * 1000 // FRAME_MILLISECONDS))
        request = SpeechRequest(SENTENCE, speaker, seed=_SEED, max_frames=frames, chunk_characters=len(SENTENCE))
        samples = self._engine.generate(request).samples
        return np.rint(np.clip(samples, -1, 32767 / 32768) * 32768).astype(np.int16)


def _read(path: Path) -> Pcm | None:
    """Samples of a stored recording; None if it does not exist or cannot be used."""
    try:
        with wave.open(str(path), "rb") as file:
            audio_format = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            data = file.readframes(file.getnframes())
            complete = len(data) == 2 * file.getnframes() > 0
    except FileNotFoundError:
        return None
    except (OSError, EOFError, wave.Error) as error:
        _log.warning("%s cannot be read and is generated again: %s", path, error)
        return None
    return np.frombuffer(data, "<i2").astype(np.int16) if complete and audio_format == (1, 2, SAMPLE_RATE) else None


def _write_once(path: Path, samples: Pcm) -> Pcm:
    """Write a file atomically unless another worker has written it already.

    Returns the samples of the file. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as raw:
            with wave.open(raw, "wb") as file:
                file.setparams((1, 2, SAMPLE_RATE, samples.size, "NONE", "not compressed"))
                file.writeframes(samples.astype("<i2").tobytes())
            raw.flush()
            os.fsync(raw.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    stored = _read(path)
    return samples if stored is None else stored
