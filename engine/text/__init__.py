"""Text in front of the model: splitting, and the longest duration that a text can take. Pure, no torch."""

from .splitting import max_frames_for, sentences_end, split_text

__all__ = ["max_frames_for", "sentences_end", "split_text"]
