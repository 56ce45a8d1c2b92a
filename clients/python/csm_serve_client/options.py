"""Speech parameters, as in docs/api.md. Omitted ones have the service's defaults."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

AudioFormat = Literal[
    "wav", "mp3", "fmp4", "raw_pcm", "webm", "opus", "flac", "aac", "mulaw", "alaw", "wav_mulaw", "wav_alaw"
]


class Reference(TypedDict):
    """The recording of a voice that comes with its request: base64, or a URL, and the words spoken in it."""

    audio: NotRequired[str]
    url: NotRequired[str]  # of a host that the service's REFERENCE_HOSTS lists
    transcript: NotRequired[str]


def reference(recording: str | Path | bytes, transcript: str = "") -> Reference:
    """The option `reference` from a file, its bytes, or a URL, which the service fetches.

    Raises OSError if the file cannot be read.
    """
    if isinstance(recording, str) and recording.startswith(("http://", "https://")):
        return {"url": recording, "transcript": transcript}
    data = recording if isinstance(recording, bytes) else Path(recording).read_bytes()
    return {"audio": base64.b64encode(data).decode(), "transcript": transcript}


class DialogueTurn(TypedDict):
    """One turn of a dialogue: who says what, and the milliseconds before it where they are not the dialogue's."""

    voice_id: str
    text: str
    gap_ms: NotRequired[int]


class SpeechOptions(TypedDict, total=False):
    """Optional parameters of a speech request, other than voice and format."""

    sample_rate: int  # Hz, 8000 to 48000; by default 24000, and 8000 for mulaw and alaw
    synthesis_temperature: float  # 0 (greedy) to 2
    top_k: int  # 1 to 2051
    cfg_guidance_weight: float  # 0 (off) to 3; above 0 the request takes two slots
    voice_exaggeration_factor: float  # 0 to 1; 0.5 is neutral
    text_processing_chunk_size: int  # characters, 20 to 1000
    audio_tokens_per_slice: int  # frames of 80 ms, 1 to 125
    remove_leading_milliseconds: int
    remove_trailing_milliseconds: int
    chunk_overlap_method: Literal["full", "zero"]
    crossfade_duration_milliseconds: int  # 0 to 500
    max_audio_length_ms: int  # 80 to 600000, or 0 for no limit
    normalize: bool  # whether text is normalised to spoken English first
    lexicon: dict[str, str]  # words, and what is said in their place
    reference: Reference  # in place of a voice; `reference("amy.wav", "Its words.")` reads a file
    seed: int  # the same seed, request and voice give the same audio
