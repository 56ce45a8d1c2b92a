"""Text in front of the model: normalisation, a lexicon, splitting, and the longest duration of a text. No torch."""

from .normalization import has_words, normalize
from .splitting import max_frames_for, sentences_end, split_text

__all__ = ["has_words", "max_frames_for", "normalize", "sentences_end", "split_text"]
