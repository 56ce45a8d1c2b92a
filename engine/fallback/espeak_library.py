"""ctypes binding of libespeak-ng: text in, 16-bit samples out, one text at a time per process."""

from __future__ import annotations

import ctypes
import os
import threading
import unicodedata
from _ctypes import dlclose
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError, EngineFailed
from .voices import EspeakVoice

Pcm = npt.NDArray[np.int16]  # (samples,)
Word = tuple[int, int]  # first sample and first character of a word
Sink = Callable[[Pcm], bool]  # receives the next samples; returns False to stop

RATE = 22_050  # Hz, espeak-ng's output sample rate

_BUFFER_MILLISECONDS = 60  # audio per callback
_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: the callback runs in the calling thread
_DONT_EXIT = 0x8000  # return an error code instead of exiting the process if data files are missing
_UTF8, _END_PAUSE = 1, 0x1000  # without the SSML and phoneme flags: markup in a text is spoken literally
_IPA = 2  # phoneme mode; the separator character goes into bits 8 and up
_PITCH, _RANGE = 3, 4


class _Event(ctypes.Structure):
    """espeak_EVENT. An array of events ends with one of kind 0."""

    _fields_ = (
        ("kind", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_WORD = 1
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
_library_lock = threading.Lock()  # libespeak-ng keeps its state in globals
_persistent_libraries: dict[str, ctypes.CDLL] = {}  # by path; guarded by _library_lock


class EspeakLibrary:
    """The library and data files of the `espeakng-loader` package.

    Raises CheckpointError if either cannot be loaded.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader

            self._path: str = espeakng_loader.get_library_path()
            self._data = espeakng_loader.get_data_path().encode()
        except Exception as error:
            raise CheckpointError(
                f"the fallback voice needs the package espeakng-loader, which does not load ({error}): "
                "install it with `make install`, or set FALLBACK_ENGINE=none"
            ) from error
        with self._loaded() as library:
            self.version = library.espeak_Info(None).decode().split()[0]

    def synthesize(
        self, text: str, voice: EspeakVoice, pitch_range: int, pause: bool, sink: Sink, words: list[Word] | None = None
    ) -> None:
        """Synthesize `text`, calling `sink` with samples as they are generated, in this thread.

        pitch_range: 0 is monotone, 50 is the default, 100 is lively.
        pause: append the pause of a sentence end.
        words: receives the first sample and text position of each word; espeak-ng joins some words into one.
        Raises what `sink` raises, and EngineFailed if espeak-ng fails.
        """
        raised: list[BaseException] = []

        def on_samples(samples: Any, count: int, events: Any) -> int:
            if words is not None:
                valid = takewhile(lambda each: each.kind, events)
                words.extend((event.sample, event.text_position - 1) for event in valid if event.kind == _WORD)
            if not samples or count <= 0:
                return 0
            try:
                return 0 if sink(np.ctypeslib.as_array(samples, (count,)).copy()) else 1
            except BaseException as error:  # ctypes would print it and continue
                raised.append(error)
                return 1

        callback = _Callback(on_samples)
        encoded = _sanitized(text).encode()
        with self._persistent() if _needs_other_language(text) else self._loaded() as library:
            library.espeak_SetSynthCallback(callback)
            library.espeak_ng_SetRandSeed(1)
            if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
                raise EngineFailed(f"espeak-ng has no voice {voice.name!r} in {self._data.decode()}")
            library.espeak_SetParameter(_PITCH, voice.pitch, 0)
            library.espeak_SetParameter(_RANGE, pitch_range, 0)
            flags = _UTF8 | (_END_PAUSE if pause else 0)
            result = library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, flags, None, None)
        if raised:
            raise raised[0]
        if result != 0:
            raise EngineFailed(f"espeak-ng failed with code {result}")

    def phonemes(self, texts: Sequence[str], voice: EspeakVoice) -> list[str]:
        """IPA phonemes of each one-line text, in this voice: words separated by spaces, phonemes by `_`.

        Raises EngineFailed if espeak-ng has no such voice.
        """
        with self._loaded() as library:
            if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
                raise EngineFailed(f"espeak-ng has no voice {voice.name!r} in {self._data.decode()}")
            transcriptions = []
            for text in texts:
                rest, clauses = ctypes.c_char_p(_sanitized(text).encode()), []
                while rest.value is not None:  # one clause per call
                    clauses.append(library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA | ord("_") << 8))
                transcriptions.append(b" ".join(clauses).decode())
            return transcriptions

    @contextmanager
    def _loaded(self) -> Iterator[ctypes.CDLL]:
        """A freshly loaded library, exclusive to this thread.

        Pitch flutter and wave phase are kept in variables that no call resets, so one text changes how the next sounds.
        Reloading takes 3 ms and makes equal requests give equal audio.
        """
        with _library_lock:
            library, voices = self._start(self._path)
            try:
                yield library
            finally:
                library.espeak_Terminate()
                dlclose(library._handle)
                ctypes.CDLL(None).free(ctypes.c_void_p(voices))  # espeak_Terminate leaks this list

    @contextmanager
    def _persistent(self) -> Iterator[ctypes.CDLL]:
        """A second copy of the library that is loaded once, exclusive to this thread while in use.

        Used for texts in other scripts: espeak-ng loads a second language for them, about 100 KiB that espeak_Terminate
        does not free; only loading another language does.
        """
        with _library_lock:
            if self._path not in _persistent_libraries:
                # From a copy in memory, because dlopen returns the same library for the same file.
                with os.fdopen(os.memfd_create("espeak-ng"), "wb") as copy:
                    copy.write(Path(self._path).read_bytes())
                    copy.flush()
                    _persistent_libraries[self._path], _ = self._start(f"/proc/self/fd/{copy.fileno()}")
            yield _persistent_libraries[self._path]

    def _start(self, path: str) -> tuple[ctypes.CDLL, int]:
        """Load and initialize the library. Returns it with the address of its voice list."""
        try:
            library = _declare_signatures(ctypes.CDLL(path))
        except OSError as error:
            raise CheckpointError(f"espeak-ng does not load from {self._path}: {error}") from error
        rate = library.espeak_Initialize(_SYNCHRONOUS, _BUFFER_MILLISECONDS, self._data, _DONT_EXIT)
        if rate != RATE:
            dlclose(library._handle)
            raise CheckpointError(f"espeak-ng does not start from its data in {self._data.decode()} (code {rate})")
        return library, library.espeak_ListVoices(None)


def _declare_signatures(library: ctypes.CDLL) -> ctypes.CDLL:
    library.espeak_Info.argtypes = [ctypes.c_void_p]
    library.espeak_Info.restype = ctypes.c_char_p
    library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    library.espeak_ListVoices.argtypes = [ctypes.c_void_p]
    library.espeak_ListVoices.restype = ctypes.c_void_p
    library.espeak_SetSynthCallback.argtypes = [_Callback]
    library.espeak_SetSynthCallback.restype = None
    library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
    library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int]
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_SetParameter.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p,  # text
        ctypes.c_size_t,  # size in bytes, including the terminating zero
        ctypes.c_uint,  # start position
        ctypes.c_int,  # unit of the positions: characters
        ctypes.c_uint,  # end position: 0 is the end of the text
        ctypes.c_uint,  # flags
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    return library


def _sanitized(text: str) -> str:
    """Replace control, private-use and unpaired surrogate characters: espeak-ng interprets some as commands."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Co", "Cs") else c for c in text)


def _needs_other_language(text: str) -> bool:
    """True if the text has letters outside Latin, Greek and Cyrillic, for which espeak-ng switches language."""
    return any(ord(c) >= 0x530 and not 0x1D00 <= ord(c) < 0x2000 and unicodedata.category(c)[0] in "LM" for c in text)
