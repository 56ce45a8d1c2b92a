"""Makes the recordings of preloaded-voices/ in the voices of the neural fallback: python -m scripts.preloaded_voices"""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import numpy as np

from app.voices.loudness import normalized
from engine import SAMPLE_RATE, EngineConfig, SpeechRequest, load_engine

FOLDER = Path(__file__).resolve().parents[1] / "preloaded-voices"
# The name of each voice, its speaker number in the neural fallback, and what it says.
VOICES = {
    "kai": (0, "Thanks for stopping by. I usually read in the evening, when the street is quiet and the kettle is on."),
    "owen": (
        1,
        "We left before sunrise, crossed the bridge on foot, and had breakfast in a small bakery by the station.",
    ),
    "nora": (2, "Good morning! The weather is lovely today, so let us open the windows and begin with something easy."),
    "leo": (
        3,
        "If you ask me, the best part of the trip was the last one: a slow train, a good book, and nothing to do.",
    ),
}


def main() -> int:
    """Write NAME.wav (24 kHz, 16 bits, mono, -20 LUFS) and NAME.txt for each voice."""
    engine = load_engine(EngineConfig(model="kokoro", slots=1))
    for name, (speaker, text) in VOICES.items():
        chunks = [chunk.samples for chunk in engine.stream(SpeechRequest(text, speaker=speaker, seed=1))]
        samples = normalized(np.concatenate(chunks))
        with wave.open(str(FOLDER / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes((samples * 32767).round().astype("<i2").tobytes())
        (FOLDER / f"{name}.txt").write_text(f"{text}\n", encoding="utf-8")
        print(f"{name}: {samples.size / SAMPLE_RATE:.1f} s")
    engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
