"""espeak-ng's library through ctypes: text in, 16-bit samples out, one text at a time in the whole process."""

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
Word = tuple[int, int]  # the sample and the character that it begins with
Sink = Callable[[Pcm], bool]  # takes the next samples; False stops the speech

RATE = 22_050  # Hz, of everything that espeak-ng says

_PIECE_MILLISECONDS = 60  # how much audio the library hands over at a time
_SYNCHRONOUS = 2  # audio goes to the callback, in the thread that asked for it
_DONT_EXIT = 0x8000  # a missing data file is an error code, not the end of the process
_UTF8, _END_PAUSE = 1, 0x1000  # no SSML and no [[phonemes]]: what is in a text is spoken as it stands
_IPA = 2  # how phonemes are written; the character between them goes eight bits higher
_PITCH, _RANGE = 3, 4


class _Event(ctypes.Structure):
    """What espeak-ng tells beside the samples; a row of them ends with one of kind 0."""

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
_one_at_a_time = threading.Lock()  # the library is one set of globals, whoever has loaded it
_kept_libraries: dict[str, ctypes.CDLL] = {}  # by path; behind that lock


class EspeakLibrary:
    """The library and its data, as the `espeakng-loader` package brings them.

    Raises CheckpointError if either cannot be used.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader

            self._path: str = espeakng_loader.get_library_path()
            self._data = espeakng_loader.get_data_path().encode()
        except Exception as error:
            raise CheckpointError(
                f"the fallback voice needs the package espeakng-loader, which does not load ({error}); "
                "`make install` puts it in place, FALLBACK_ENGINE=none does without"
            ) from error
        with self._loaded() as library:
            self.version = library.espeak_Info(None).decode().split()[0]

    def synthesize(
        self, text: str, voice: EspeakVoice, pitch_range: int, pause: bool, sink: Sink, words: list[Word] | None = None
    ) -> None:
        """Say `text` and hand its samples to `sink` as they are made, from this thread.

        pitch_range: 0 is monotonous, 50 is usual, 100 is lively.
        pause: end with the pause of a sentence's end.
        words: gets the sample at which each word begins, and the place in the text; some words are said as one.
        Raises what `sink` raises, EngineFailed if espeak-ng cannot.
        """
        raised: list[BaseException] = []

        def hand_over(samples: Any, count: int, events: Any) -> int:
            if words is not None:
                told = takewhile(lambda each: each.kind, events)
                words.extend((event.sample, event.text_position - 1) for event in told if event.kind == _WORD)
            if not samples or count <= 0:
                return 0
            try:
                return 0 if sink(np.ctypeslib.as_array(samples, (count,)).copy()) else 1
            except BaseException as error:  # ctypes would print it and go on
                raised.append(error)
                return 1

        callback = _Callback(hand_over)
        encoded = _speakable(text).encode()
        with self._kept() if _in_other_alphabets(text) else self._loaded() as library:
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
        """How that voice would say each of these one-line texts, in IPA: words apart by a space, phonemes by `_`.

        Raises EngineFailed if espeak-ng has no such voice.
        """
        with self._loaded() as library:
            if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
                raise EngineFailed(f"espeak-ng has no voice {voice.name!r} in {self._data.decode()}")
            said = []
            for text in texts:
                rest, clauses = ctypes.c_char_p(_speakable(text).encode()), []
                while rest.value is not None:  # a clause at a time
                    clauses.append(library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA | ord("_") << 8))
                said.append(b" ".join(clauses).decode())
            return said

    @contextmanager
    def _loaded(self) -> Iterator[ctypes.CDLL]:
        """The library, freshly loaded, for this thread alone.

        A text changes how the next one sounds: the flutter of the pitch and the phase of the wave run on in
        variables that no call resets. Loading anew takes 3 ms and makes equal requests sound equal.
        """
        with _one_at_a_time:
            library, voices = self._start(self._path)
            try:
                yield library
            finally:
                library.espeak_Terminate()
                dlclose(library._handle)
                ctypes.CDLL(None).free(ctypes.c_void_p(voices))  # espeak_Terminate forgets this list

    @contextmanager
    def _kept(self) -> Iterator[ctypes.CDLL]:
        """A second copy of the library, loaded once, for this thread alone.

        For texts in other alphabets: espeak-ng takes a second language for them, some 100 KiB that it does not
        free when it ends, only when it takes another.
        """
        with _one_at_a_time:
            if self._path not in _kept_libraries:
                # Under another name, since a library loaded twice from one file is one library.
                with os.fdopen(os.memfd_create("espeak-ng"), "wb") as copy:
                    copy.write(Path(self._path).read_bytes())
                    copy.flush()
                    _kept_libraries[self._path], _ = self._start(f"/proc/self/fd/{copy.fileno()}")
            yield _kept_libraries[self._path]

    def _start(self, path: str) -> tuple[ctypes.CDLL, int]:
        """The library and the address of its list of voices."""
        try:
            library = _declared(ctypes.CDLL(path))
        except OSError as error:
            raise CheckpointError(f"espeak-ng does not load from {self._path}: {error}") from error
        rate = library.espeak_Initialize(_SYNCHRONOUS, _PIECE_MILLISECONDS, self._data, _DONT_EXIT)
        if rate != RATE:
            dlclose(library._handle)
            raise CheckpointError(f"espeak-ng does not start from its data in {self._data.decode()} (code {rate})")
        return library, library.espeak_ListVoices(None)


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
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
        ctypes.c_size_t,  # its bytes, with the closing zero
        ctypes.c_uint,  # position to start from,
        ctypes.c_int,  # counted in characters
        ctypes.c_uint,  # position to end at: 0 is the end
        ctypes.c_uint,  # flags
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    return library


def _speakable(text: str) -> str:
    """Without control, private and unpaired surrogate characters: espeak-ng reads orders to itself in some."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Co", "Cs") else c for c in text)


def _in_other_alphabets(text: str) -> bool:
    """Has letters for which espeak-ng leaves English: not Latin, Greek or Cyrillic ones."""
    return any(ord(c) >= 0x530 and not 0x1D00 <= ord(c) < 0x2000 and unicodedata.category(c)[0] in "LM" for c in text)
