"""Voice ids: which names are valid, and the one spelling of each."""

from __future__ import annotations

import os
import unicodedata

MAX_BYTES = 128  # in UTF-8: with the hash and suffixes of a sidecar, a file name stays below the limit of 255
RULES = (
    f"use 1 to {MAX_BYTES} bytes of letters and digits of any script, space and . _ - ( ), not starting with a dot "
    "or a space and not ending in .txt"
)
AUDIO_SUFFIXES = frozenset(
    (".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".webm", ".aif", ".aiff", ".aifc", ".caf")
)

_PUNCTUATION = frozenset(" ._-()")
_CATEGORIES = ("L", "M", "Nd")  # letters, the marks that many scripts write vowels with, digits


def canonical_id(name: str) -> str:
    """The composed form (NFC) of a name: macOS names files in the decomposed form, which looks the same."""
    return unicodedata.normalize("NFC", name)


def is_voice_id(name: str) -> bool:
    """Whether a name follows RULES, in NFC. Names ending in .txt are transcripts."""
    if not name or not _may_start(name[0]) or name.lower().endswith(".txt"):
        return False
    if not all(map(_is_allowed, name)):
        return False  # lone surrogates too, as a file name that is not UTF-8 has them
    return len(name.encode()) <= MAX_BYTES and unicodedata.is_normalized("NFC", name)


def suggest_id(name: str) -> str:
    """A valid id close to an invalid name; empty if nothing of the name can be kept."""
    stem, suffix = os.path.splitext(canonical_id(name[-1000:]).replace("\\", "/").rpartition("/")[2])
    stem, suffix = ("".join(each if _is_allowed(each) else "-" for each in part) for part in (stem, suffix))
    while stem and not _may_start(stem[0]):
        stem = stem[1:]
    while len((stem + suffix).encode()) > MAX_BYTES and stem:
        stem = stem[:-1]
    suggestion = canonical_id(stem.rstrip() + suffix)
    return suggestion if stem.strip("-_() ") and is_voice_id(suggestion) else ""


def stem_of(voice_id: str) -> str:
    """The id without an audio extension: "amy" of "amy.wav", but "v1.2" of "v1.2"."""
    stem, suffix = os.path.splitext(voice_id)
    return stem if suffix.lower() in AUDIO_SUFFIXES else voice_id


def same_file(name: str) -> str:
    """Equal for names that a file system which ignores case, or the form of letters, takes for one file."""
    return canonical_id(canonical_id(name).casefold())


def _is_allowed(character: str) -> bool:
    return character in _PUNCTUATION or unicodedata.category(character).startswith(_CATEGORIES)


def _may_start(character: str) -> bool:
    return _is_allowed(character) and character not in ". " and unicodedata.category(character)[0] != "M"
