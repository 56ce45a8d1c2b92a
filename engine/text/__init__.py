"""Text in front of the model: markup, normalisation, splitting, and the longest duration of a text. No torch."""

from .growing import sentences_end, speakable_end, split_written
from .normalization import has_words, normalize
from .reading import SpokenChunk, request_chunks, spoken_chunks, spoken_text
from .splitting import max_frames_for, split_text

__all__ = [
    "SpokenChunk",
    "has_words",
    "max_frames_for",
    "normalize",
    "request_chunks",
    "sentences_end",
    "speakable_end",
    "split_text",
    "split_written",
    "spoken_chunks",
    "spoken_text",
]
