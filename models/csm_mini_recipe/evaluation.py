"""What csm-mini can do, spoken by the project's own engine and heard by a public recogniser.

python -m models.csm_mini_recipe.evaluation MODEL_DIRECTORY
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engine import EngineConfig, SpeechRequest, VoicePrompt, load_engine
from engine.fallback.espeak_library import EspeakLibrary
from engine.fallback.pitch import median_pitch
from engine.text import max_frames_for
from engine.types import FRAME_SAMPLES, SAMPLE_RATE, Samples

from .asr_check import Recogniser, word_errors
from .speech import PROMPTS, VOICES, Recording, speak, speak_as_it_is
from .texts import CHOICE, OPEN

_LONG = ". ".join(sentence.capitalize() for sentence in OPEN[:12]) + "."


@dataclass(frozen=True)
class Heard:
    """One voice's figures; those of espeak-ng itself, with the same voice and sentences, beside them.

    chosen: sentences of CHOICE that the recogniser picked, of `choices`. errors: words wrong of `words` in OPEN.
    stopped: clips that ended by their own stop frame, of `clips`. pitch: median of the clips' over the recording's.
    long_pitch: of the last third of a long text over the first.
    """

    voice: str
    chosen: int
    espeak_chosen: int
    choices: int
    errors: int
    espeak_errors: int
    words: int
    stopped: int
    clips: int
    pitch: float
    long_pitch: float


def listen(model: str, voices: list[str], sentences: int, temperature: float) -> list[Heard]:
    """Let every voice say the first `sentences` of CHOICE and of OPEN, and a long text."""
    engine = load_engine(EngineConfig(model=model, device="cpu", slots=4))
    recogniser, library = Recogniser(CHOICE), EspeakLibrary()
    choice, free = CHOICE[:sentences], OPEN[:sentences]
    found = []
    for name in voices:
        voice = VOICES[name]
        prompt = VoicePrompt(_float(speak(library, PROMPTS[name], voice)), PROMPTS[name])

        def say(text: str, prompt: VoicePrompt = prompt) -> Samples:
            request = SpeechRequest(text.capitalize() + ".", voice=prompt, seed=0, temperature=temperature)
            return engine.generate(request).samples

        said = {text: say(text) for text in (*choice, *free)}
        real = {text: _float(speak_as_it_is(library, text.capitalize() + ".", voice)) for text in (*choice, *free)}
        pitches = [pitch for samples in said.values() if (pitch := median_pitch(samples, SAMPLE_RATE))]
        meant = median_pitch(prompt.samples, SAMPLE_RATE) or float("nan")
        whole = say(_LONG)
        first, last = (median_pitch(third, SAMPLE_RATE) or 0.0 for third in np.array_split(whole, 3)[::2])
        found.append(
            Heard(
                voice=name,
                chosen=sum(recogniser.choose(said[text]) == text for text in choice),
                espeak_chosen=sum(recogniser.choose(real[text]) == text for text in choice),
                choices=len(choice),
                errors=sum(word_errors(text, recogniser.transcribe(said[text])) for text in free),
                espeak_errors=sum(word_errors(text, recogniser.transcribe(real[text])) for text in free),
                words=sum(len(text.split()) for text in free),
                stopped=sum(
                    samples.size < max_frames_for(text + ".") * FRAME_SAMPLES for text, samples in said.items()
                ),
                clips=len(said),
                pitch=round(float(np.median(pitches)) / meant, 3) if pitches else 0.0,
                long_pitch=round(last / first, 3) if first else 0.0,
            )
        )
        print(found[-1], flush=True)
    engine.close()
    return found


def _float(recording: Recording) -> Samples:
    samples: Samples = recording.astype(np.float32) / np.float32(32768)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description="Let csm-mini speak, and count what a recogniser hears.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--voices", nargs="+", default=list(VOICES), choices=list(VOICES))
    parser.add_argument("--sentences", type=int, default=len(CHOICE), help="of each kind")
    parser.add_argument("--temperature", type=float, default=0.8)
    arguments = parser.parse_args()
    heard = listen(str(arguments.model), arguments.voices, arguments.sentences, arguments.temperature)
    print(json.dumps([asdict(each) for each in heard]))


if __name__ == "__main__":
    main()
