"""The speakers that CSM has no recording of: `speaker_0` and on, each with one voice for good.

Without a prompt CSM speaks in another voice each time. So a speaker is heard once, with a fixed seed, and that
audio is its recording from then on: kept beside the uploads, so that all workers and later starts share it.
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

Pcm = npt.NDArray[np.int16]  # (samples,) at 24 kHz: what a wav file holds, so that all read alike what one made


def speaker_number(voice_id: str) -> int | None:
    """N of the voice speaker_N; None if it is no such voice."""
    found = _SPEAKER_ID.fullmatch(voice_id)
    return int(found[1]) if found else None


class SpeakerVoices:
    """The recordings of speakers, made on first use. Every method may be called from any thread, and may block.

    folder: where they are kept; memory alone where it cannot be written.
    fingerprint: of the model; another model makes other recordings.
    on_state: told whether making a speaker's recording worked.
    """

    def __init__(self, engine: Engine, folder: Path, fingerprint: str, on_state: Report = report_nothing) -> None:
        self._engine = engine
        self._on_state = on_state
        self._folder = folder
        self._cache_key = hashlib.sha256(f"{fingerprint}\0{SENTENCE}\0{_SEED}".encode()).hexdigest()[:16]
        self._known: dict[int, VoicePrompt] = {}
        self._lock = threading.Lock()  # one at a time: each takes a slot for seconds

    def get(self, speaker: int) -> VoicePrompt:
        """The recording of a speaker. Raises EngineError if it has to be made and cannot be."""
        with self._lock:
            if speaker not in self._known:
                try:
                    self._known[speaker] = self._find(speaker)
                except EngineClosed:
                    raise
                except Exception as error:
                    self._on_state(f"speaker_{speaker} cannot be made: {error or type(error).__name__}", "")
                    raise
                self._on_state(None, "")
            return self._known[speaker]

    def _find(self, speaker: int) -> VoicePrompt:
        path = self._folder / f"{self._cache_key}-speaker_{speaker}.wav"
        samples = _read(path)
        if samples is None:
            _log.info("making the voice of speaker_%d", speaker)
            samples = self._make(speaker)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # it is there and cannot be used
            try:
                samples = _write_first(path, samples)
            except OSError as error:
                _log.warning("speaker_%d is kept in memory only: %s cannot be written (%s)", speaker, path, error)
        prompt = VoicePrompt((samples / 32768).astype(np.float32), SENTENCE, SAMPLE_RATE, speaker)
        self._engine.prepare_voice(prompt, speaker)
        return prompt

    def _make(self, speaker: int) -> Pcm:
        seconds = min(_MAX_SECONDS, self._engine.max_voice_seconds or _MAX_SECONDS)
        frames = max(1, int(seconds * 1000 // FRAME_MILLISECONDS))
        request = SpeechRequest(SENTENCE, speaker, seed=_SEED, max_frames=frames, chunk_characters=len(SENTENCE))
        samples = self._engine.generate(request).samples
        return np.rint(np.clip(samples, -1, 32767 / 32768) * 32768).astype(np.int16)


def _read(path: Path) -> Pcm | None:
    """The samples of a file of ours; None if there is none that can be used."""
    try:
        with wave.open(str(path), "rb") as file:
            form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            data = file.readframes(file.getnframes())
            complete = len(data) == 2 * file.getnframes() > 0
    except FileNotFoundError:
        return None
    except (OSError, EOFError, wave.Error) as error:
        _log.warning("%s cannot be used and is made anew: %s", path, error)
        return None
    return np.frombuffer(data, "<i2").astype(np.int16) if complete and form == (1, 2, SAMPLE_RATE) else None


def _write_first(path: Path, samples: Pcm) -> Pcm:
    """Write a file whole or not at all, and never over one that another worker was first with.

    Returns the samples that lie there in the end. Raises OSError.
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
    theirs = _read(path)
    return samples if theirs is None else theirs
